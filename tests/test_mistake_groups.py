"""Groups and pairs counted by hand, and wrong labels that were planted among real images."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evalib.data import sample
from evalib.data.image_data import ImageData, Split
from evalib.data.loaders import eval_loader
from evalib.engine import Evaluation, evaluate
from evalib.mistake_groups import GROUPS, confused_pairs, group_mistakes, pairs_table
from evalib.mistakes import Mistakes, find_mistakes
from evalib.neighbors import Neighbors, nearest_images

# Probabilities of three classes, and the label. The four right ones are sure by 0.6, 0.7, 0.8 and 0.9: their lower
# quartile is 0.675.
IMAGES = (
    ((0.6, 0.3, 0.1), 0),
    ((0.7, 0.2, 0.1), 0),
    ((0.1, 0.8, 0.1), 1),
    ((0.05, 0.05, 0.9), 2),
    ((0.68, 0.31, 0.01), 2),  # 4: confident, the label has less than a third and is last
    ((0.9, 0.06, 0.04), 1),  # 5: the same, surer, the label second
    ((0.4, 0.396, 0.204), 1),  # 6: nearest tie, with its label
    ((0.25, 0.38, 0.37), 0),  # 7: near tie, the label third
    ((0.55, 0.25, 0.2), 2),  # 8: nothing of that
)


@pytest.fixture
def evaluation() -> Evaluation:
    probabilities, labels = zip(*IMAGES, strict=True)
    return Evaluation(0.0, 4 / 9, torch.tensor(probabilities).log(), torch.tensor(labels))


def neighbors_labeled(labels: list[list[int]]) -> Neighbors:
    found = torch.tensor(labels)
    return Neighbors(torch.zeros_like(found), torch.ones(found.shape), found)


def test_every_mistake_is_in_one_group(evaluation):
    groups = group_mistakes(evaluation)
    assert [GROUPS[place] for place in groups.group] == ["confident", "confident", "near tie", "near tie", "unsure"]
    assert groups["confident"].indices.tolist() == [4, 5], "highest loss first: the label of 4 has 1 %, that of 5 6 %"
    assert groups["near tie"].indices.tolist() == [6, 7], "smallest margin first, not highest loss"
    assert groups["unsure"].indices.tolist() == [8]
    assert len(groups["label suspect"]) == 0
    assert "label suspect" not in groups.rules
    assert groups.agreement is None
    with pytest.raises(ValueError, match="`name` needs one of 'label suspect', .*: got 'sure'"):
        groups["sure"]


def test_figures_of_a_mistake(evaluation):
    groups = group_mistakes(evaluation)
    assert groups.loss.tolist() == pytest.approx([-math.log(p) for p in (0.01, 0.06, 0.396, 0.25, 0.2)], rel=1e-5)
    assert groups.margin.tolist() == pytest.approx([0.37, 0.84, 0.004, 0.01, 0.3], abs=1e-6)
    assert groups.second.tolist() == [1, 1, 1, 2, 1]


def test_a_suspect_needs_neighbors_labeled_as_predicted(evaluation):
    neighbors = neighbors_labeled([[0, 0, 0, 1], [0, 0, 1, 1], [0] * 4, [1] * 4, [0] * 4])
    groups = group_mistakes(evaluation, neighbors)
    assert groups.agreement.tolist() == [0.75, 0.5, 1.0, 1.0, 1.0]
    assert groups["label suspect"].indices.tolist() == [4], "of 5 only half agree, the others are not confident"
    assert groups["confident"].indices.tolist() == [5]
    assert group_mistakes(evaluation, neighbors, suspect_agreement=0.5)["label suspect"].indices.tolist() == [4, 5]
    assert len(group_mistakes(evaluation, neighbors, confident=0.95)["label suspect"]) == 0


def test_more_suspects_than_wrong_labels_explain_are_told(evaluation):
    """1 of 9 images is 11 %; among 91 right ones more it is 1 %, as many as test sets have."""
    neighbors = neighbors_labeled([[0, 0, 0, 1], [0, 0, 1, 1], [0] * 4, [1] * 4, [0] * 4])
    first, told = group_mistakes(evaluation, neighbors).table().notes
    assert "first group" in first
    assert told.startswith("Suspects are 11.1% of the images.")
    logits = torch.cat([evaluation.logits, torch.tensor([[0.6, 0.3, 0.1]]).log().expand(91, 3)])
    labels = torch.cat([evaluation.labels, torch.zeros(91, dtype=torch.int64)])
    many = group_mistakes(Evaluation(0.0, 0.95, logits, labels), neighbors, confident=0.675)
    assert len(many["label suspect"]) == 1
    assert many.table().notes == [first]


def test_a_label_as_likely_as_by_chance_is_no_suspect():
    logits = torch.tensor([[0.5, 0.4, 0.1], [0.55, 0.1, 0.35]]).log()
    evaluation = Evaluation(0.0, 0.0, logits, torch.tensor([1, 2]))
    groups = group_mistakes(evaluation, neighbors_labeled([[0], [0]]), confident=0.5, tie=0.0)
    assert [GROUPS[place] for place in groups.group] == ["confident", "confident"]


def test_the_table_of_groups(evaluation):
    first, *_, last = group_mistakes(evaluation).table().rows
    assert first == {
        "group": "confident", "mistakes": 2, "share": 0.4, "probability": pytest.approx(0.79),
        "loss": pytest.approx(-math.log(0.01 * 0.06) / 2, rel=1e-5), "label second": 0.5, "rule": "probability ≥ 67.5%",
    }  # fmt: skip
    assert (last["group"], last["mistakes"], last["label second"]) == ("unsure", 1, 0.0)
    empty = group_mistakes(evaluation, tie=0.0).table()
    assert empty.rows[1]["probability"] is None
    assert "n/a" in str(empty)


def test_what_cannot_be_grouped_is_refused(evaluation):
    right = Evaluation(0.0, 1.0, evaluation.logits[:2], evaluation.labels[:2])
    with pytest.raises(ValueError, match="at least one mistake: got none"):
        group_mistakes(right)
    with pytest.raises(ValueError, match="an entry for each of the 5 mistakes: got 1"):
        group_mistakes(evaluation, neighbors_labeled([[0]]))
    wrong = Evaluation(0.0, 0.0, evaluation.logits[4:], evaluation.labels[4:])
    with pytest.raises(ValueError, match="`confident` needs a number"):
        group_mistakes(wrong)
    assert len(group_mistakes(wrong, confident=0.65)["confident"]) == 2


# --- pairs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def mistakes() -> Mistakes:
    true, predicted = torch.tensor([2, 0, 1, 0, 2, 0, 1]), torch.tensor([1, 1, 0, 2, 1, 1, 2])
    return Mistakes(torch.arange(7), true, predicted, torch.ones(7))


def test_pairs_by_number_then_by_class(mistakes):
    pairs = [tuple(pair) for pair in confused_pairs(mistakes)]
    assert pairs == [(0, 1, 2), (2, 1, 2), (0, 2, 1), (1, 0, 1), (1, 2, 1)]
    assert confused_pairs(mistakes, 1)[0].images == 2
    assert confused_pairs(mistakes.select([])) == []


def test_the_table_of_pairs(mistakes):
    rows = pairs_table(mistakes, ("ant", "bee", "cow"), 2).rows
    assert [row["the other way round"] for row in rows] == [1, 1]
    assert rows[0] == {
        "true": "ant", "predicted": "bee", "mistakes": 2, "share": 2 / 7, "the other way round": 1,
    }  # fmt: skip
    assert pairs_table(mistakes, ("ant", "bee", "cow"), None).rows[2]["the other way round"] == 0
    with pytest.raises(ValueError, match="`mistakes` is empty"):
        pairs_table(mistakes.select([]), ("ant", "bee", "cow"))


# --- planted ones --------------------------------------------------------------------------------------------


class SmallNet(nn.Module):
    """Three convolutions, global average pooling, one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64)
        self.features = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU())
                for before, after in pairwise(widths)
            )
        )
        self.classifier = nn.Linear(64, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean(dim=(2, 3)))


def ships_and_frogs() -> ImageData:
    """Two classes of the sample that a small network tells apart: 1,000 training and 200 test images."""
    data, names = sample(), ("ship", "frog")
    wanted = torch.tensor([data.classes.index(name) for name in names])

    def part(split: Split) -> Split:
        chosen = split.select((split.labels[:, None] == wanted).any(dim=1).nonzero().flatten())
        return Split(chosen.images, (chosen.labels == wanted[1]).long())

    return ImageData("two of the sample", names, part(data.train), part(data.test), data.mean, data.std)


def test_wrong_labels_planted_among_real_images_are_suspected():
    data = ships_and_frogs()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = SmallNet()
        ((images, labels),) = eval_loader(data, "train", batch_size=1000)
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(4):
            for batch in torch.randperm(1000).split(50):
                optimizer.zero_grad()
                F.cross_entropy(net(images[batch]), labels[batch]).backward()
                optimizer.step()
        planted = torch.randperm(200)[:20]
    labels = data.test.labels.clone()
    labels[planted] = 1 - labels[planted]
    noisy = ImageData(data.name, data.classes, data.train, Split(data.test.images, labels), data.mean, data.std)
    evaluation = evaluate(net, eval_loader(noisy))
    groups = group_mistakes(evaluation, nearest_images(net, noisy, find_mistakes(evaluation), k=10))
    wrong, suspects, every = set(planted.tolist()), groups["label suspect"].indices, groups.mistakes.indices
    found = len(wrong & set(suspects.tolist()))
    assert found >= 10, f"{found} of the 20 planted ones are suspects"
    among_all = len(wrong & set(every.tolist())) / len(every)
    assert found / len(suspects) >= among_all + 0.1, f"{found} of {len(suspects)} suspects, {among_all:.0%} of mistakes"
