"""`evalib rank`: which method at which layer to trust for a run."""

from __future__ import annotations

import argparse

from evalib.commands.trained import load_trained, test_data


def rank(arguments: argparse.Namespace) -> int:
    """`evalib rank`: the exit code is 1 if no kind of map may be used, or the chosen one fails a check."""
    import torch

    from evalib.ranking import METHODS, rank_maps
    from evalib.sanity import check_maps
    from evalib.transforms import normalize

    model, checkpoint, execution, _ = load_trained(arguments)
    data = test_data(arguments, checkpoint)
    judged = data.take(test=arguments.count).test
    images = normalize(judged.images[torch.arange(len(judged))], data.mean, data.std).to(execution.device)
    methods = arguments.method or METHODS
    ranking = rank_maps(model, images, methods=methods, layers=arguments.layer, seed=checkpoint.recipe.seed)
    print(f"{len(images):,} test images of {data.name}, maps of the predicted classes\n\n{ranking}")
    if ranking.best is None:
        return 1
    with torch.no_grad():
        classes = model(images).argmax(dim=1)
    verdict = check_maps(model, images, classes, ranking.best.make_maps)
    print(f"\n{ranking.best.name}:\n{verdict}")
    return 0 if verdict.passed else 1
