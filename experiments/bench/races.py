"""A record recipe in turns with ideas for it and with the scripts of others, each on its own clock."""

from collections.abc import Iterator
from pathlib import Path

import torch

from bench.airbench import SCRIPTS, AirbenchScript
from bench.speedrun import RecordRuns, summary
from cifar_fast.data.image_set import ImageSet

IDEAS = {  # changes of a recipe that are not yet known to make it quicker on a GPU
    94: {
        "hard images": dict(hard=(1, 1, 1, 1, 0.8, 0.7, 0.6, 0.5)),
        "growing and hard images": dict(epochs=9, sizes=(24, 28), hard=(1, 1, 1, 1, 1, 0.8, 0.7, 0.6, 0.5)),
    }
}


def race(
    images: ImageSet,  # CIFAR-10
    target: int,  # percent: 94 or 96
    checkouts: str | Path | None,  # folder that holds checkouts of the others; None: ours alone
    runs: int,  # of each
    device: torch.device,
) -> Iterator[tuple[str, float, str, list]]:  # contender, value, unit, and the runs' values
    "Mean seconds and mean accuracies."
    on_gpu = device.type == "cuda"
    compile = "reduce-overhead" if on_gpu else False
    ours = {"ours": {}, **{f"ours, {idea}": changes for idea, changes in IDEAS.get(target, {}).items()}}
    contenders = [RecordRuns(images, target, device, "auto", compile, name, **o) for name, o in ours.items()]
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
        result = summary(results, target)
        yield name, result["mean_seconds"], "s", [o.seconds for o in results]
        yield f"{name}, accuracy", result["mean_accuracy"] * 100, "%", [o.accuracy for o in results]
