"""A record recipe in turns with the scripts of others, each on its own clock."""

from collections.abc import Iterator
from pathlib import Path

import torch

from bench.airbench import SCRIPTS, AirbenchScript
from bench.speedrun import RecordRuns, summary
from cifar_fast.data.image_set import ImageSet


def race(
    images: ImageSet,  # CIFAR-10
    target: int,  # percent: 94 or 96
    checkouts: str | Path | None,  # folder that holds checkouts of the others; None: ours alone
    runs: int,  # of each
    device: torch.device,
) -> Iterator[tuple[str, float, str, list]]:  # contender, value, unit, and the runs' values
    "Mean seconds and mean accuracies."
    on_gpu = device.type == "cuda"
    contenders = [RecordRuns(images, target, device, compile="reduce-overhead" if on_gpu else False)]
    names = [o.name for o in Path(checkouts).iterdir() if o.is_dir()] if checkouts and on_gpu else []
    for name in sorted(names):
        if any((Path(checkouts) / name / script).is_file() for script in SCRIPTS[target]):
            contenders.append(AirbenchScript(Path(checkouts) / name, target, images))
    for contender in contenders if on_gpu else ():
        contender.warm_up()
    outcomes = {o.name: [] for o in contenders}
    for seed in range(runs):
        for contender in contenders:
            outcomes[contender.name].append(contender.run(seed))
    for name, results in outcomes.items():
        result, own = summary(results, target), "ours" if name == "cifar_fast" else name
        yield own, result["mean_seconds"], "s", [o.seconds for o in results]
        yield f"{own}, accuracy", result["mean_accuracy"] * 100, "%", [o.accuracy for o in results]
