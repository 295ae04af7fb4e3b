"""The figures that the README shows, made from the demo run: `make figures`.

    python images/make_figures.py [--run runs/demo]

Pictures of the report and of the page are taken by Chromium, if it and playwright are here; otherwise the old ones
stay, and a line says so.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from evalib.checkpoint import load_model
from evalib.curves import plot_history
from evalib.data.loaders import eval_loader
from evalib.data.origins import data_of
from evalib.engine import evaluate
from evalib.history import History
from evalib.mistake_story import plot_mistake
from evalib.mistakes import find_mistakes
from evalib.plots import save_figure
from evalib.report import explain_mistakes
from evalib.rundir import latest_checkpoint
from evalib.runtime import keep_freed_memory

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def draw(run: Path) -> None:
    """Curves, maps of four mistakes, and the story of the one that the network was surest of."""
    model, checkpoint = load_model(latest_checkpoint(run))
    data = data_of(checkpoint)
    mistakes = find_mistakes(evaluate(model, eval_loader(data))).by_confidence()
    figures = {
        "curves": plot_history(History.from_dict(checkpoint.metrics)),
        "gradcam": explain_mistakes(model, data, mistakes.head(4)),
        "mistake": plot_mistake(model, data, mistakes),
    }
    for name, figure in figures.items():
        print(save_figure(figure, HERE / f"{name}.png"))


def photograph(run: Path) -> None:
    """The report and the page of a run, as a browser shows them."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        browser = None
    if browser is None:
        print("report.png and app.png stay as they are: they need playwright and Chromium")
        return
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1280, "height": 860})
        report = Path(folder, "report.html")
        evalib("report", str(run), "--output", str(report))
        page.goto(report.as_uri())
        page.screenshot(path=HERE / "report.png")
        port = free_port()
        command = [sys.executable, "-m", "evalib", "app", str(run), "--port", str(port), "--no-browser"]
        with subprocess.Popen(command) as app:
            try:
                wait_for(port)
                page.goto(f"http://127.0.0.1:{port}")
                page.locator("input[type=file]").first.set_input_files(example(Path(folder)))
                page.wait_for_timeout(8000)
                page.screenshot(path=HERE / "app.png")
            finally:
                app.terminate()
        chromium.close()
    print(HERE / "report.png", HERE / "app.png", sep="\n")


def evalib(*words: str) -> None:
    """A command of the command line; its failure ends this one."""
    subprocess.run([sys.executable, "-m", "evalib", *words], check=True)


def example(folder: Path) -> Path:
    """A test image of the sample as a file."""
    from PIL import Image

    from evalib.data import sample

    path = folder / "example.png"
    Image.fromarray(sample().test.images[22].permute(1, 2, 0).numpy()).resize((256, 256)).save(path)
    return path


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int, seconds: float = 90) -> None:
    """Until something listens there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise TimeoutError(f"Nothing listens on port {port} after {seconds:.0f} s.")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--run", type=Path, default=Path("runs/demo"), help="default: %(default)s")
    run = options.parse_args().run
    keep_freed_memory()
    if not (run / "last.pt").exists():
        evalib("demo", "--run-dir", str(run))
    draw(run)
    photograph(run)


if __name__ == "__main__":
    main()
