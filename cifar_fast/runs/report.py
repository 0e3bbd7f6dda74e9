"""A run as one HTML page."""

from pathlib import Path

from cifar_fast.data.image_set import origin
from cifar_fast.runs.facts import FROM_SCRATCH
from cifar_fast.runs.page import Picture, write_page
from cifar_fast.runs.results import NO_SETTINGS, FinishedRun, duration, known, percent
from cifar_fast.runs.test_sets import tell_second_test

CHANNELS = (6, 11)  # of the feature maps: those that the article shows
SECTIONS = {
    "Training": {"curves.png": "Accuracy, loss and learning rate."},
    "Classes": {"per_class.png": "Precision, recall and F1 of each class."},
    "Mistakes": {
        "confusion.png": "Images of the row's class that were taken for the column's.",
        "confusion_shares.png": "The same in per cent of the row's class.",
        "confused.png": "Look-alikes: the classes that are taken for each other most often.",
        "top_losses.png": "The images with the largest losses.",
    },
    "Confidence": {"calibration.png": "How often the model is right when it is so sure."},
    "Inside the network": {f"channel{o}.png": f"The first test image: channel {o} after each layer." for o in CHANNELS},
}


def write_report(folder: str | Path) -> Path:
    "Write a run's page, report.html, from what its folder holds. Raises `InputError` where that is no finished run."
    run = FinishedRun.read(folder)
    metrics, classes = run.metrics, run.predictions.per_class()
    pictures = {
        title: [Picture.of(run.folder / o, text) for o, text in files.items() if (run.folder / o).exists()]
        for title, files in SECTIONS.items()
    }
    tested, (low, high) = metrics.get("tested_on", "test images"), metrics["accuracy_interval"]
    return write_page(
        run.folder / "report.html",
        "report.html",
        metrics["title"],
        warnings=warnings_of(metrics),
        accuracy=percent(metrics["accuracy"], 2),
        headline=f"of {len(run.predictions.targs):,} {tested} right (95 % interval over such images: "
        f"{percent(low)} to {percent(high)})",
        facts=facts_of(metrics),
        sections=[(title, found) for title, found in pictures.items() if found],
        class_header=["class", "images", "precision", "recall", "F1"],
        class_rows=[
            [name, f"{o.images:,}", percent(o.precision), percent(o.recall), percent(o.f1)]
            for name, o in classes.items()
        ],
        answers=[tell_second_test(k, o, run.predictions) for k, o in metrics.get("also_tested", {}).items()],
        settings=[(name, value) for name, value in run.config.items() if name not in (*NO_SETTINGS, "run")],
        environment=list(metrics["versions"].items()),
    )


def warnings_of(metrics: dict) -> list[str]:
    "What a reader must know before the number."
    warnings, data = [], origin(metrics["data"])
    if data == "digits":  # which stand in where CIFAR-10 is not to be had
        warnings.append(f"These are not CIFAR-10 results: the data is {metrics['data']}.")
    elif data == "cifar10" and not metrics["data_is_cifar10"]:
        warnings.append("Only a part of CIFAR-10 was used.")
    if metrics.get("tested_on", "test images") != "test images":
        warnings.append(f"Tested on {metrics['tested_on']}, not on test images.")
    if alone := metrics.get("model_alone"):
        warnings.append(alone_line(alone))
    elif (views := metrics.get("views", 1)) > 1:  # of a version that measured it of speedruns alone
        one = percent(metrics.get("one_view_accuracy"), 2)
        warnings.append(f"Tested with {views} views of each image. model/, which evaluate asks, has one: {one} right.")
    if metrics["model"] not in FROM_SCRATCH and metrics["weights"] == "none":
        warnings.append("The body has random weights, not pretrained ones.")
    if skipped := metrics.get("skipped_images"):
        warnings.append(f"Skipped, as they cannot be read: {skipped:,} images, which config.json names.")
    if leaked := metrics.get("leaked_images"):
        warnings.append(f"{leaked:,} test images were trained on, pixel by pixel: evaluate --duplicates tells more.")
    if metrics["interrupted"]:
        warnings.append(f"Interrupted after {metrics['epochs']} epochs.")
    return warnings


def alone_line(
    alone: dict,  # of `model_alone`, not empty
) -> str:
    "What model/ lacks of what was tested."
    lacks = f"Tested with {' and '.join(alone['without'])}, which model/ is without: "
    if alone["accuracy"] is None:
        return f"{lacks}alone the network cannot predict these images."
    return f"{lacks}alone, as evaluate and predict ask it, it has {percent(alone['accuracy'], 2)} of the images right."


def facts_of(metrics: dict) -> list[tuple[str, str]]:
    "The numbers beside the headline."
    macs, at_once = metrics["macs"], metrics.get("at_once", 1)
    share, together = (f", its share of {at_once} at once", f" of {at_once} at once") if at_once > 1 else ("", "")
    facts = [
        ("training images right", percent(metrics.get("train_accuracy"))),
        (f"loss on {metrics.get('tested_on', 'test images')}", f"{metrics['loss']:.3f}"),
        ("calibration error", percent(metrics["calibration_error"])),
        ("training time", duration(metrics.get("train_seconds")) + share),
        ("training speed", known(metrics.get("images_per_second"), "{:,.0f} images/s")),
        ("peak memory", f"{metrics['peak_memory_mb']:,.0f} MB{together}"),
        ("parameters", f"{metrics['params']:,}"),
        ("multiply-accumulates", known(macs and macs / 1e6, "{:,.1f} M an image")),
    ]
    if chosen := (metrics.get("choice") or {}).get("chosen"):
        what = ", ".join(filter(None, [chosen["opt"], f"{chosen['epochs']} epochs"]))
        facts.insert(1, ("chosen on held-out images", f"{what} ({percent(chosen['held_out_accuracy'])})"))
    return facts
