"use strict";
// Everything works without this script, but choosing and sorting. It reads attributes and sets text and classes; it
// never makes markup out of text.
(() => {
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const one = (id) => document.getElementById(id);
  all(".controls[hidden]").forEach((part) => { part.hidden = false; });

  // light and dark: kept in memory only
  const root = document.documentElement, theme = one("theme"), night = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme || (night.matches ? "dark" : "light")) === "dark";
  const nameTheme = () => { theme.textContent = dark() ? "Light" : "Dark"; theme.setAttribute("aria-pressed", dark()); };
  if (theme) {
    theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; nameTheme(); });
    night.addEventListener("change", nameTheme);
    nameTheme();
  }

  // tables
  const valueOf = (row, column, numeric) => {
    const cell = row.cells[column], value = cell.dataset.v === undefined ? cell.textContent : cell.dataset.v;
    return numeric ? Number(value) : value.toLowerCase();
  };
  all("table.sortable th[data-sort]").forEach((head) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const numeric = head.dataset.sort === "number", before = head.getAttribute("aria-sort");
      const up = before ? before === "descending" : !numeric;
      const column = head.cellIndex, body = head.closest("table").tBodies[0];
      const rows = [...body.rows].sort((a, b) => {
        const left = valueOf(a, column, numeric), right = valueOf(b, column, numeric);
        return (left < right ? -1 : left > right ? 1 : 0) * (up ? 1 : -1);
      });
      all("th", head.parentNode).forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...rows);
    });
  });

  // the place in the page
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const seen = new Set();
  const watch = new IntersectionObserver((entries) => {
    entries.forEach((entry) => { seen[entry.isIntersecting ? "add" : "delete"](entry.target.id); });
    const first = [...links.keys()].find((id) => seen.has(id));
    if (first) links.forEach((link, id) => { if (id === first) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current"); });
  }, { rootMargin: "-10% 0px -60% 0px" });
  links.forEach((link, id) => { if (one(id)) watch.observe(one(id)); });

  // the gallery
  const place = one("cards"), filters = one("filters");
  if (!place || !filters) return;
  const cards = all(".card", place), more = one("more"), count = one("count"), step = 12;
  const choices = ["true", "predicted", "kind"].map((id) => one(id)), search = one("search"), sort = one("sort");
  const down = { confidence: true, loss: true };
  let limit = step, matching = cards;
  const show = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean), key = sort.value;
    const ordered = [...cards].sort((a, b) => (Number(a.dataset[key]) - Number(b.dataset[key])) * (down[key] ? -1 : 1));
    matching = ordered.filter((card) =>
      choices.every((choice) => !choice.value || card.dataset[choice.id] === choice.value) &&
      words.every((word) => card.dataset.text.includes(word)));
    const kept = new Set(matching);
    cards.forEach((card) => { card.classList.toggle("off", !kept.has(card)); card.classList.remove("later"); });
    matching.slice(limit).forEach((card) => card.classList.add("later"));
    place.append(...ordered);
    const left = matching.length - limit;
    more.parentNode.hidden = left <= 0;
    more.textContent = `Show ${Math.min(step * 2, left)} more`;
    const whole = matching.length === cards.length ? `${cards.length} mistakes` : `${matching.length} of ${cards.length} mistakes`;
    count.textContent = matching.length ? `${whole}, ${Math.min(limit, matching.length)} in view` : "None of the mistakes on this page fits.";
  };
  const restart = () => { limit = step; show(); };
  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("input", restart);
  one("everything").addEventListener("click", () => { filters.reset(); restart(); });
  more.addEventListener("click", () => {
    const next = matching[limit];
    limit += step * 2;
    show();
    if (next) next.querySelector(".photo").focus({ preventScroll: true });
  });
  all(".confusion a").forEach((link) => link.addEventListener("click", () => {
    filters.reset();
    ["true", "predicted"].forEach((id) => {
      const wanted = link.dataset[id], choice = one(id);
      // none of this pair may be among the cards
      if (!all("option", choice).some((option) => option.value === wanted)) choice.add(new Option(`class ${wanted}`, wanted));
      choice.value = wanted;
    });
    restart();
  }));

  // one mistake, enlarged, with all layers
  const dialog = one("enlarged");
  let current = null;
  const open = (card) => {
    current = card;
    const large = card.cloneNode(true);
    large.removeAttribute("id");
    large.className = "card";
    const buttons = document.createElement("div");
    buttons.className = "buttons";
    [["← Previous", -1], ["Next →", 1], ["Close", 0]].forEach(([words, by]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = words;
      button.addEventListener("click", () => (by ? turn(by) : dialog.close()));
      buttons.append(button);
    });
    dialog.replaceChildren(buttons, large);
    if (!dialog.open) dialog.showModal();
  };
  const turn = (by) => {
    const at = matching.indexOf(current);
    open(matching[(at + by + matching.length) % matching.length]);
    all(".buttons button", dialog)[by < 0 ? 0 : 1].focus();
  };
  place.addEventListener("click", (event) => {
    const photo = event.target.closest(".photo");
    if (photo) open(photo.closest(".card"));
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") turn(1);
    if (event.key === "ArrowLeft") turn(-1);
  });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  show();
})();
