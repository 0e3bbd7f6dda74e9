"""The article this toolkit grew from: its trainings, its claims, its open question and its next steps, as data."""

from dataclasses import dataclass

from cifar_fast.runs.compare import compare
from cifar_fast.runs.results import Runs, percent

AGREED, NOT_AGREED, NOT_TESTABLE = "agreed", "not agreed", "not testable"


@dataclass(frozen=True)
class Training:
    "One row of the page: a training script with options that differ from its defaults."

    part: str  # of the page
    name: str  # of the run's folder
    what: str  # in words
    script: str  # custom or transfer
    options: dict


def article_trainings() -> list[Training]:
    "The article's four systems."
    return [
        Training("article", "resnet18-adam", "frozen ResNet-18, Adam", "transfer", {"opt": "adam"}),
        Training("article", "resnet18-sgd", "frozen ResNet-18, SGD", "transfer", {"opt": "sgd"}),
        Training("article", "custom-constant", "custom CNN, fixed rate", "custom", {"schedule": "constant"}),
        Training("article", "custom-decay", "custom CNN, decaying rate", "custom", {"schedule": "decay"}),
    ]


def memory_trainings() -> list[Training]:
    "What a smaller batch saves: each in a process of its own, one epoch."
    return [
        Training("memory", f"bs-{bs}", f"custom CNN, batches of {bs}", "custom", {"bs": bs, "epochs": 1})
        for bs in (64, 16)
    ]


SIZES = (32, 64, 128, 224)  # pixels that frozen bodies are shown


def body_trainings(
    arch: str,  # of another body than ResNet-18
    weights: str,  # its weights
) -> list[Training]:
    "The same question to another body: frozen at each size, then fine-tuned at the one that two CPU cores can afford."
    given, short = {"arch": arch, "weights": weights}, arch.rsplit("/", 1)[-1]
    rows = [(f"body-{o}", f"frozen {short}, {o} pixels", {"size": o}) for o in SIZES]
    tuned = {"size": 64, "unfreeze_epochs": 5, "unfreeze_lr": 1e-2, "frozen_bn": "always"}
    rows += [("body-fine-tuned-64", f"{short} at 64 pixels, then fine-tuned, its batch norms still", tuned)]
    return [Training("study", name, what, "transfer", {**given, **o}) for name, what, o in rows]


def study_trainings(imagenet: bool) -> list[Training]:
    "Why did the transfer fail? One thing changed at a time; deeper networks where ImageNet's weights are used."
    rows = [("size-32", "frozen, 32 pixels", {})]
    rows += [(f"size-{o}", f"frozen, {o} pixels", {"size": o}) for o in SIZES[1:]]
    rows += [
        ("bn-train", "frozen, 32 pixels, batch norms in train mode", {"frozen_bn": "train"}),
        ("head-fastai", "frozen, 32 pixels, fastai's head", {"head": "fastai"}),
        ("random", "frozen, 32 pixels, random weights", {"weights": "none"}),
        ("fine-tuned", "32 pixels, then the whole network fine-tuned", {"unfreeze_epochs": 5}),
        ("fine-tuned-64", "64 pixels, then the whole network fine-tuned", {"size": 64, "unfreeze_epochs": 5}),
    ]
    deeper = [(o, f"frozen {o}, 32 pixels", {"arch": o}) for o in ("resnet34", "resnet50")]
    return [Training("study", name, what, "transfer", o) for name, what, o in rows + deeper * imagenet]


def next_trainings() -> list[Training]:
    "The article's next steps, against the custom CNN with the decaying rate."
    rows = [
        ("baseline", "custom CNN, as it is", {}),
        ("four-convs", "a fourth convolution", {"convs": 4}),
        ("one-dense", "one dense layer fewer", {"dense": 1}),
        ("conv-dropout", "dropout of 0.1 after the convolutions", {"conv_dropout": 0.1}),
        ("agc", "adaptive gradient clipping in place of batch norm", {"no_bn": True, "agc": 0.02}),
        ("early-stop", "early stopping, patience 3", {"early_stop": 3}),
    ]
    return [Training("next", name, what, "custom", o) for name, what, o in rows]


@dataclass(frozen=True)
class Claim:
    "A sentence of the article, and what was measured here."

    claim: str
    measured: str
    verdict: str


class Claims:
    "Checks the article's claims on the runs of its four systems, and on the two of the memory part."

    def __init__(
        self,
        runs: dict[str, Runs],  # by `Training.name`: the parts article and memory
        epochs: int,  # that the four systems were trained for
    ):
        self.runs, self.epochs = runs, epochs
        metrics = runs["custom-decay"].first.metrics
        self.is_cifar10 = metrics["data_is_cifar10"]
        self.weights = runs["resnet18-adam"].first.metrics["weights"]
        self.custom = max((runs["custom-constant"], runs["custom-decay"]), key=lambda o: o.accuracies[0])
        self.resnet = max((runs["resnet18-adam"], runs["resnet18-sgd"]), key=lambda o: o.accuracies[0])

    def all(self) -> list[Claim]:
        "Every claim, in the article's order."
        return [
            self.accuracy("Frozen ResNet-18 with ImageNet weights: 48 % (50 % on the training images)",
                          self.resnet, 0.48, 0.50, imagenet=True),
            self.accuracy("Custom CNN, fixed rate: 77 % (99 %)", self.runs["custom-constant"], 0.77, 0.99),
            self.accuracy("Custom CNN, decaying rate: 79 % (99 %)", self.runs["custom-decay"], 0.79, 0.99),
            self.schedule(),
            self.parameters(),
            self.enough_epochs(),
            self.flat_transfer(),
            self.taken_for("cat", ["dog"]),
            self.taken_for("airplane", ["bird", "ship"]),
            self.taken_for("automobile", ["truck"]),
            self.cats_as_frogs(),
            self.memory(),
            self.batch_memory(),
            Claim("ResNet-18 is too shallow for what ImageNet holds (a guess)", self._deeper(), NOT_TESTABLE),
        ]  # fmt: skip

    def judged(self, claim: str, measured: str, agreed: bool, of_article: bool = True, imagenet: bool = False) -> Claim:
        "A claim; not testable where it is of the article's trainings, or ImageNet's weights, and these are others."
        needs = {
            f"the weights are {self.weights}, not ImageNet's": not imagenet or self.weights == "imagenet",
            "the data is not CIFAR-10, whole": not of_article or self.is_cifar10,
            f"{self.epochs} epochs are not the article's 30": not of_article or self.epochs == 30,
        }
        for reason, is_met in needs.items():
            if not is_met:
                return Claim(claim, f"{measured}; {reason}", NOT_TESTABLE)
        return Claim(claim, measured, AGREED if agreed else NOT_AGREED)

    def accuracy(self, claim: str, method: Runs, test: float, train: float, imagenet: bool = False) -> Claim:
        "Agreed within two points on test and training images."
        got, got_train = method.accuracies[0], method.mean("train_accuracy")
        measured = f"{percent(got)} ({percent(got_train)}); agreed is within 2 points"
        agreed = abs(got - test) <= 0.02 and abs(got_train - train) <= 0.02
        return self.judged(claim, measured, agreed, imagenet=imagenet)

    def schedule(self) -> Claim:
        "McNemar's test between cases 3 and 4."
        found = compare(self.runs["custom-constant"], self.runs["custom-decay"])
        points = f"{found.difference * 100:+.2f} points"
        measured = f"{points}, p = {found.p:.2g} (McNemar, these two models): {found.verdict}"
        claim = "79 against 77 %: the decaying rate's gain is small but detectable"
        return self.judged(claim, measured, found.verdict == "better")

    def parameters(self) -> Claim:
        "The custom CNN's size depends on nothing but the size of the images."
        n = self.custom.first.metrics["params"]
        return self.judged("The custom CNN has 4,294,218 parameters", f"{n:,}", n == 4_294_218, of_article=False)

    def enough_epochs(self) -> Claim:
        "The epoch from which on the test accuracy stays within a point of the last."
        needed = {o.name: settled(o, 0.01) for o in (self.runs["custom-constant"], self.runs["custom-decay"])}
        measured = ", ".join(f"{name} after {n}" for name, n in needed.items())
        measured = f"within one point of the last epoch for good: {measured}"
        return self.judged("10 to 15 epochs are enough", measured, max(needed.values()) <= 15)

    def flat_transfer(self) -> Claim:
        "Flat from the third epoch on, within two points."
        n = settled(self.resnet, 0.02)
        measured = f"within two points of the last epoch for good after {n} epochs; agreed is 3 or fewer"
        return self.judged("The transfer's accuracy is flat almost from the start", measured, n <= 3)

    def taken_for(self, true: str, others: list[str]) -> Claim:
        "The most frequent mistakes for a class are the named ones."
        claim = f"{true} is taken for {' and '.join(others)}"
        preds = self.custom.first.predictions
        if true not in preds.vocab:
            return Claim(claim, "the data has no such class", NOT_TESTABLE)
        found = [(said, n) for name, said, n in preds.most_confused() if name == true][: len(others)]
        measured = "most often for " + ", ".join(f"{said} ({n})" for said, n in found)
        return self.judged(claim, measured, {said for said, _ in found} == set(others))

    def cats_as_frogs(self) -> Claim:
        "ResNet-18's cats: frogs against cats, half as often within a quarter."
        claim = "ResNet-18 calls cats frogs half as often as cats"
        preds = self.resnet.first.predictions
        if "cat" not in preds.vocab:
            return Claim(claim, "the data has no such class", NOT_TESTABLE)
        row = preds.confusion_matrix()[list(preds.vocab).index("cat")]
        frogs, cats = (int(row[list(preds.vocab).index(o)]) for o in ("frog", "cat"))
        agreed = cats > 0 and abs(frogs / cats - 0.5) <= 0.25
        return self.judged(claim, f"{frogs} frogs, {cats} cats", agreed, imagenet=True)

    def memory(self) -> Claim:
        "Another framework's and another machine's figure: shown, not judged."
        measured = f"{self.runs['bs-64'].mean('peak_memory_mb'):,.0f} MB above what the imports hold"
        claim = "Peak memory at batch size 64: 1.3 to 1.5 GB"
        return Claim(claim, f"{measured}; the article's was measured with another framework", NOT_TESTABLE)

    def batch_memory(self) -> Claim:
        "Each run in its own process, one epoch; little is a tenth."
        large, small = (self.runs[o].mean("peak_memory_mb") for o in ("bs-64", "bs-16"))
        measured = f"{large:,.0f} MB at 64, {small:,.0f} MB at 16; little is a tenth or less"
        return self.judged("A smaller batch saves little memory", measured, small >= 0.9 * large, of_article=False)

    def _deeper(self) -> str:
        if self.weights != "imagenet":
            return f"needs ImageNet's weights of deeper networks; these are {self.weights}"
        return "see the rows of ResNet-34 and ResNet-50 below: deeper is no test of what it sees at 32 pixels"


def settled(method: Runs, within: float) -> int:
    "The first epoch, from 1, after which the test accuracy never leaves the last one's neighbourhood."
    values = [float(o["accuracy"]) for o in method.first.history.epochs]
    far = [i for i, o in enumerate(values) if abs(o - values[-1]) > within]
    return far[-1] + 2 if far else 1


def explanation(study: dict[str, Runs]) -> list[str]:
    "Why the transfer failed, in sentences about what the study measured."

    def accuracy(name: str) -> float:
        return study[name].accuracies[0]

    sizes = _by_size(study, "size-")
    best, weights = max(sizes, key=sizes.get), study["size-32"].first.metrics["weights"]
    said = [
        f"With {weights} weights the frozen body does best at {best} pixels: {percent(sizes[best])}, against "
        f"{percent(sizes[32])} at 32. "
        + (
            "Larger images are no better: a network's filters answer to objects of the size that it was trained on, "
            f"and images enlarged beyond it fit no better than images that are too small ({_list(sizes)})."
            if best != max(sizes)
            else f"The larger the images, the better ({_list(sizes)})."
        ),
        f"Random weights give {percent(accuracy('random'))} at 32 pixels: what the pretraining is worth there is "
        f"{(sizes[32] - accuracy('random')) * 100:+.1f} points.",
    ]
    for name, what in (
        ("bn-train", "Letting the batch norms move"),
        ("head-fastai", "fastai's larger head"),
        ("fine-tuned", "Fine-tuning the whole network at 32 pixels"),
    ):
        gain, got = accuracy(name) - sizes[32], accuracy(name)
        said.append(f"{what} changes it by {gain * 100:+.1f} points, to {percent(got)}.")
    gains = {"the size": sizes[best] - sizes[32], "fine-tuning": accuracy("fine-tuned") - sizes[32]}
    if gains["the size"] > 0.02 or gains["fine-tuning"] > 0.02:
        said.append(
            "So the transfer fails where the images do not have the size that the weights know, and the last layer "
            f"alone cannot make up for it: {max(gains, key=gains.get)} helps most."
        )
    return said + (_of_body(study) if "body-32" in study else [])


def _by_size(study: dict[str, Runs], prefix: str) -> dict[int, float]:
    names = {o.removeprefix(prefix): o for o in study if o.startswith(prefix)}
    return {int(o): study[name].accuracies[0] for o, name in names.items() if o.isdigit()}


def _of_body(study: dict[str, Runs]) -> list[str]:
    "What the other body says to the same question."
    metrics, sizes = study["body-32"].first.metrics, _by_size(study, "body-")
    best, tuned = max(sizes, key=sizes.get), study["body-fine-tuned-64"].accuracies[0]
    gain = sizes[best] - sizes[32]
    return [
        f"{metrics['model']} with {metrics['weights']} weights, frozen: {_list(sizes)}. "
        + (
            f"Its features are worth {gain * 100:.1f} points more at {best} pixels than at 32: the size of the images "
            "decides, for this body too."
            if gain > 0.02
            else "The size of the images does not decide here."
        ),
        f"Fine-tuned at 64 pixels it has {percent(tuned)}, {(tuned - sizes[64]) * 100:+.1f} points against frozen.",
    ]


def _list(sizes: dict[int, float]) -> str:
    return ", ".join(f"{size}: {percent(o)}" for size, o in sorted(sizes.items()))
