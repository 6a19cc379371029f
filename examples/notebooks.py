"""Write the notebooks of the examples: one folder per data set, one notebook per tier.

    python examples/notebooks.py [folder]

They are the same tutorial over different data. Only what a data set is, and how to look at it, is written per set.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tier:
    """What the notebooks of one tier say that those of another do not.

    Attributes:
        name: of the file and, behind `synergos_`, of the grid.
        orchestrator: what the Driver talks to.
        about: said behind the introduction.
        waits: a request that has the grid do something is answered when that has ended.
        setup, see: imports, and code behind the setup, where the tier has more to show.
        components: arguments that tell the collaboration what else serves it, as code.
        watch: cells behind the training.
        search: the tier searches for better settings.
    """

    name: str
    orchestrator: str = "TTP"
    about: str = ""
    waits: bool = True
    setup: str = ""
    see: str = ""
    components: str = ""
    watch: tuple[tuple[str, str], ...] = ()
    search: bool = False


@dataclass(frozen=True)
class Story:
    """What one notebook says that the others do not.

    Attributes:
        title: heading.
        about: what the rows are and what is to be learnt.
        look: code that shows some of the data.
        action, model: of the project, and the name of its experiment.
        shares: how the labels of one participant are summed up.
        uneven: what is uneven in the uneven split.
        metric: figure that counts.
        lesson: what the figures show.
    """

    title: str
    about: str
    look: str
    action: str
    model: str
    shares: str
    uneven: str
    metric: str
    lesson: str


COUNTS = "value_counts()"
# Figures of a validation that are shown, as code.
TOLD = {"regress": '["R2", "MSE", "MAE"]', "classify": '["labels", "TPs", "FNs", "overall_accuracy", "macro_f_score"]'}

TRACKED = "\nfrom synergos.demo.tracking import Tracker, log_search"
LINKS = """
print("Graylog:", log_search(grid, driver.trace_id))
print("MLflow:", grid.pages["mlops"])"""


FOUND = "\nfrom synergos.demo.figures import trials"
IMPORTS = """
import time
from concurrent.futures import ThreadPoolExecutor"""
TRAIN = '''def train(project):
    """Train and print each round when it has ended."""
    with ThreadPoolExecutor() as pool:
        training = pool.submit(driver.models.create, COLLAB, project, EXPERIMENT, RUN)
        time.sleep(0.5)  # by now the grid has it among its jobs
        shown = 0
        for job in driver.jobs.follow(process="train", collab_id=COLLAB, project_id=project, interval=0.5):
            for each in job["progress"]["rounds"][shown:]:
                print(f"round {each['round']:>2} of {each['rounds']}: training loss {each['train_loss']:.4f}")
                shown += 1
    return training.result()["data"][0]["global"]'''
QUEUED_TRAIN = '''def train(project):
    """Train, and print each round when it has ended and which grid did it."""
    driver.models.create(COLLAB, project, EXPERIMENT, RUN)
    shown = 0
    for job in driver.jobs.follow(process="train", collab_id=COLLAB, project_id=project, interval=0.5):
        for each in job["progress"]["rounds"][shown:]:
            print(f"round {each['round']:>2} of {each['rounds']}: training loss {each['train_loss']:.4f}")
            shown += 1
    print("done by", job["progress"]["parts"][0]["ttp"])
    (model,) = driver.models.wait(COLLAB, project, EXPERIMENT, RUN)["data"]
    return model["global"]'''
GRIDS = """

A grid is a TTP with one worker of each participant, and this tier has several. The Director has the records and gives
every job to a queue; the next grid that is free takes it. So a request is answered at once, and what it brings has to
be waited for."""


def watching(teller: str, writers: str, grid: str) -> tuple[tuple[str, str], ...]:
    """Return the cells that show what MLflow and Graylog have of a training.

    Args:
        teller: who told MLflow.
        writers: whose lines Graylog has.
        grid: whose password it asks for.
    """
    return (
        (
            "markdown",
            f"""## Watch

The {teller} told MLflow every round while it trained, and MLflow keeps that beside every other training of this model.
These are the losses as MLflow has them, and the page on which it draws them itself:""",
        ),
        (
            "code",
            """def watch(project):
    \"\"\"Return the losses that MLflow has, and print where to see more.\"\"\"
    settings = here(grid.example.name, collab_id=COLLAB, project_id=project, expt_id=EXPERIMENT, run_id=RUN)
    tracker = Tracker(settings)
    run = tracker.run()
    print("In MLflow:", grid.pages["mlops"] + run.page)
    print("In Graylog:", log_search(grid, driver.trace_id))
    return pd.DataFrame(tracker.curves(run)).rename_axis("round")


watch(grid.example.name).plot(title="losses in MLflow", ylabel="loss", marker=".");""",
        ),
        (
            "markdown",
            f"""Graylog has every line that {writers} wrote for the calls of this notebook's Driver: all of
them carry its `trace_id`, for which the link above searches. The user is `admin`; its password lies where the playbooks
were run, in `~/.local/state/synergos/{grid}/graylog_admin`.""",
        ),
    )


BASIC = Tier("basic")
PLUS = Tier(
    "plus",
    setup=TRACKED,
    see=LINKS,
    components=", **grid.components",
    watch=watching("TTP", "the TTP and the workers", "synergos_plus"),
)
CLUSTER = Tier(
    "cluster",
    orchestrator="Director",
    about=GRIDS,
    waits=False,
    setup=TRACKED,
    see=LINKS + '\nprint("RabbitMQ:", grid.pages["mq"])',
    components=", **grid.components",
    watch=watching("Director", "the Director, the TTPs and the workers", "synergos_cluster"),
    search=True,
)
TIERS = (BASIC, PLUS, CLUSTER)

STORIES = {
    "diabetes": Story(
        title="Diabetes: a regression over tables",
        about="""442 patients, ten measurements each (age, sex, body mass index, blood pressure, six blood serum
values), and how far their disease had progressed one year later: a number between 25 and 346. A linear model
predicts the progression. Two hospitals have half of the patients each, and may not show them to anybody.""",
        look='pd.read_csv(folder / "data1" / "train" / "diabetes.csv").head()',
        action="regress",
        model="linear",
        shares='describe()[["count", "mean", "min", "max"]]',
        uneven="the first hospital sees the mild cases and the second one the severe ones",
        metric="R2",
        lesson="""Each hospital alone takes its own patients for the whole world: it predicts too little or too
much everywhere, and its R2 on all patients is low, or even below 0, which is what a constant would reach. The
federated model has seen both kinds.""",
    ),
    "breast_cancer": Story(
        title="Breast cancer: two classes over tables",
        about="""569 tumours, thirty measurements of their cell nuclei each, and what they turned out to be: 0
malignant, 1 benign. A small network with one hidden layer tells them apart.""",
        look='pd.read_csv(folder / "data1" / "train" / "breast_cancer.csv").head()',
        action="classify",
        model="hidden_layer",
        shares=COUNTS,
        uneven="one clinic gets nearly all malignant tumours, the other one nearly all benign ones",
        metric="accuracy",
        lesson="""A clinic that hardly ever sees one of the two classes misses it. Together they find nearly
all, although the training is FedProx over very different rows: its term `mu` holds each participant's model
near the common one.""",
    ),
    "wine": Story(
        title="Wine: three classes over tables",
        about="""178 wines of one region from three growers, thirteen chemical measurements each. A small
network tells whose wine it is.""",
        look='pd.read_csv(folder / "data1" / "train" / "wine.csv").head()',
        action="classify",
        model="hidden_layer",
        shares=COUNTS,
        uneven="each participant has never seen the wine of one of the growers",
        metric="accuracy",
        lesson="""A participant alone cannot name a class that it has no rows of, however good its model is. The
alignment gave both the same three classes, so the federated model knows all of them. (44 wines are evaluated:
one wine more or less is 2.3 %.)""",
    ),
    "digits": Story(
        title="Digits: images and a convolutional network",
        about="""360 handwritten digits, 3, 5, 8 or 9, as images of 8 x 8 pixels. A network with two
convolutions reads them. Images are PNG files; `mapping.csv` beside them says which digit each one is.""",
        look="""labels = pd.read_csv(folder / "data1" / "train" / "mapping.csv").head(12)
figure, axes = plt.subplots(1, len(labels), figsize=(12, 1.5))
for axis, (_, row) in zip(axes, labels.iterrows(), strict=True):
    axis.imshow(plt.imread(folder / "data1" / "train" / row["image"]), cmap="gray")
    axis.set_title(row["target"])
    axis.axis("off")""",
        action="classify",
        model="convolutions",
        shares=COUNTS,
        uneven="the first participant has 3s and 5s and hardly any 8s, the second one 8s and 9s and hardly any 5s",
        metric="accuracy",
        lesson="""Averaging works although the two participants pull the convolutions in different directions in
every round: the loss curves are restless, but the common model reads all four digits, and each lone one only
its own.""",
    ),
    "webster": Story(
        title="Webster: texts",
        about="""1600 definitions from Webster's dictionary of 1913, and the field of knowledge that each one
belongs to: botany, law, music or seafaring. The workers clean the texts, agree on the words that enough
definitions have, and count them; a linear model over these counts tells the field.""",
        look="""pd.set_option("display.max_colwidth", None)
pd.read_csv(folder / "data1" / "train" / "webster.csv").head(8)""",
        action="classify",
        model="words",
        shares=COUNTS,
        uneven="one library collects botany and law, the other one music and seafaring",
        metric="accuracy",
        lesson="""A library alone has few words of the other's fields, so it puts most of the other's
definitions into a field of its own. The words that travelled are only those that at least five of a
participant's definitions share.""",
    ),
}


# Statistic that a search maximises.
GOALS = {"regress": "R2", "classify": "overall_accuracy"}


def searching(name: str, story: Story) -> tuple[tuple[str, str], ...]:
    """Return the cells that search for better settings."""
    goal = GOALS[story.action]
    return (
        (
            "markdown",
            f"""## Better settings

`ranges.json` says which hyperparameters may be changed, and how. A search trains a run for each set that it tries, on
whichever grid is free, measures it on the `evaluate` rows, and looks next where `{goal}` promises to be best. Trials
that do badly after a few rounds are ended early.""",
        ),
        (
            "code",
            f"""space = json.loads((grid.example / "ranges.json").read_text())
driver.optimizations.create(
    COLLAB,
    "{name}",
    EXPERIMENT,
    search_space=space,
    metric="{goal}",
    optimize_mode="max",
    trial_concurrency=len(grid.participants[0].nodes),
    max_trial_num=8,
    parameters={{key: value for key, value in hyperparameters.items() if key not in space}},
)
search = driver.optimizations.wait(COLLAB, "{name}", EXPERIMENT)["search"]
print("\\n".join(trials(search, list(space))))""",
        ),
        (
            "markdown",
            """Each trial is a run like any other: it has a model that can predict, and a run in MLflow. The best one
beside what was set by hand:""",
        ),
        (
            "code",
            f"""best = search["best"]
driver.predictions.create(tags, each.participant_id, COLLAB, "{name}", EXPERIMENT, best["run_id"])
driver.predictions.wait(each.participant_id, COLLAB, "{name}", EXPERIMENT, best["run_id"])
by_hand = {{key: hyperparameters.get(key) for key in space}}
pd.DataFrame({{"by hand": by_hand, "found": best["parameters"]}}, index=list(space), dtype=object)""",
        ),
    )


def cells(name: str, story: Story, tier: Tier) -> list[tuple[str, str]]:
    """Return (kind, text) of every cell of a notebook."""
    told = TOLD[story.action]
    return [
        (
            "markdown",
            f"""# {story.title}

{story.about}

You play all roles here: the coordinator who defines project and model, and the two participants who register their
data. Every step is a call of the Driver, the Python client of the orchestrator ({tier.orchestrator}). In real life each
participant's rows lie on its own machine, and nobody else could look at them as this notebook does.{tier.about}""",
        ),
        (
            "code",
            f"""import json{IMPORTS if tier.waits else ""}

import matplotlib.pyplot as plt
import pandas as pd
from synergos import Driver
from synergos.demo.compare import compare{FOUND if tier.search else ""}
from synergos.demo.phases import losses
from synergos.demo.settings import here{tier.setup}

# The grid's addresses, as the inventory has them.
grid = here("{name}")
driver = Driver(host=grid.host, port=grid.port, raise_on_error=True)
print("{tier.orchestrator} at", driver.address)
for each in grid.participants:
    for node in each.nodes:
        print(each.participant_id, "at", node.host, "with ports", node.f_port, "(REST) and", node.port, "(data)")"""
            + tier.see,
        ),
        ("markdown", "## The data"),
        ("code", f'folder = grid.example / "dataset"\n{story.look}'),
        (
            "markdown",
            f"""The rows for training were shared out twice: evenly (`train`), and so that {story.uneven}
(`non_iid_train`, from "not independent and identically distributed"). These are the labels that each participant
has:""",
        ),
        (
            "code",
            f"""shares = {{}}
for split in ("train", "non_iid_train"):
    for each in grid.participants:
        (table,) = (folder / each.data / split).glob("*.csv")
        shares[split, each.participant_id] = pd.read_csv(table)["target"].{story.shares}
pd.DataFrame(shares).fillna(0).astype(int)""",
        ),
        (
            "markdown",
            """## Register

A collaboration has projects, a project has experiments (models) and participants with their data, an experiment has
runs (settings for the training). The model:""",
        ),
        (
            "code",
            f"""architecture = json.loads((grid.example / "architecture.json").read_text())
hyperparameters = json.loads((grid.example / "hyperparameters.json").read_text())

COLLAB, EXPERIMENT, RUN = "notebooks", "{story.model}", "first"


def register(project, train):
    \"\"\"Register a project and both participants in it, who train on their folder `train`.\"\"\"
    driver.projects.create(COLLAB, project, action="{story.action}", incentives={{}})
    driver.experiments.create(COLLAB, project, EXPERIMENT, model=architecture)
    driver.runs.create(COLLAB, project, EXPERIMENT, RUN, **hyperparameters)
    for each in grid.participants:
        driver.participants.create(each.participant_id)
        registration = driver.registrations
        for node in each.nodes:
            registration.add_node(host=node.host, port=node.port, f_port=node.f_port)
        registration.create(COLLAB, project, each.participant_id, role=each.role)
        # A tag names a folder of the participant's data by its path.
        path = ["{name}", "dataset", each.data]
        driver.tags.create(
            COLLAB,
            project,
            each.participant_id,
            train=[[*path, train]],
            evaluate=[[*path, "evaluate"]],
            predict=[[*path, "predict"]],
        )


driver.collaborations.create(COLLAB{tier.components})
register("{name}", "train")
pd.DataFrame(architecture)""",
        ),
        ("code", "pd.Series(hyperparameters)"),
        (
            "markdown",
            """## Align

Each worker reads its data and tells names, never rows. The TTP forms their union, so that both have the same columns
and classes in the same order. Where a participant lacks one, its record says at which position it needs a spacer.""",
        ),
        (
            "code",
            f"""def align(project):
    \"\"\"Align and print who lacks what for training.\"\"\"
    driver.alignments.create(COLLAB, project)
    for record in driver.alignments.wait(COLLAB, project)["data"]:
        who, lacks = record["key"]["participant_id"], record["train"]
        print(f"{{who}} lacks {{len(lacks['X'])}} of the common features and {{len(lacks['y'])}} of the labels")


align("{name}")""",
        ),
        (
            "markdown",
            """## Train

In each round the workers train on their own rows and send only the model back; the TTP averages what comes. Training
is a job of the grid, and jobs can be watched while they run.""",
        ),
        (
            "code",
            f"""{TRAIN if tier.waits else QUEUED_TRAIN}


train("{name}")""",
        ),
        *tier.watch,
        (
            "markdown",
            """## Validate

Each worker measures the model on its own `evaluate` rows and tells figures. A few of them:""",
        ),
        (
            "code",
            f"""def validate(project):
    \"\"\"Return the figures of the model at each participant.\"\"\"
    driver.validations.create(COLLAB, project, EXPERIMENT, RUN)
    records = driver.validations.wait(COLLAB, project, EXPERIMENT, RUN)["data"]
    figures = {{record["key"]["participant_id"]: record["evaluate"]["statistics"] for record in records}}
    return pd.DataFrame(figures).loc[{told}]


validate("{name}")""",
        ),
        (
            "markdown",
            f"""## Predict

Predictions stay with the participant whose rows they are for: the TTP learns figures, where there are labels, and the
place in the worker's output folder (here `outputs/synergos_{tier.name}/<container>`).
`inference_results_predict.csv` in that folder has the prediction of every row.""",
        ),
        (
            "code",
            f"""for each in grid.participants:
    tags = {{"{name}": [["{name}", "dataset", each.data, "predict"]]}}
    scope = each.participant_id, COLLAB, "{name}", EXPERIMENT, RUN
    driver.predictions.create(tags, *scope)
    (record,) = driver.predictions.wait(*scope)["data"]
    print(each.participant_id, record["predict"]["res_path"])""",
        ),
        (
            "markdown",
            """## Was it worth it?

The same model with the same settings, trained without federation: centrally, on everybody's rows in one place (which
is what nobody may do in real life), and by each participant alone. All are measured on the `evaluate` rows of both
participants together.""",
        ),
        (
            "code",
            f"""def figures(project, split):
    \"\"\"Return the figures of all models.\"\"\"
    settings = here("{name}", collab_id=COLLAB, project_id=project, expt_id=EXPERIMENT, run_id=RUN, split=split)
    models = compare(settings, driver)["figures"]
    return pd.DataFrame({{model: found["overall"] for model, found in models.items()}}).T.round(3)


even = figures("{name}", "iid")
even""",
        ),
        (
            "markdown",
            f"""## When data are not evenly shared

Now the same once more, but {story.uneven}.""",
        ),
        (
            "code",
            f"""register("{name}_non_iid", "non_iid_train")
align("{name}_non_iid")
train("{name}_non_iid")
validate("{name}_non_iid")
uneven = figures("{name}_non_iid", "non_iid")
uneven""",
        ),
        (
            "markdown",
            f"""{story.lesson}

Below are the losses over the rounds, and `{story.metric}` of all models. `evaluate` is the loss of the common model on
the rows of both, `train` the losses with which the participants ended a round on their own rows. On the uneven split
those may rise while `evaluate` falls: a model that serves all gives up what served one participant only.""",
        ),
        (
            "code",
            f"""figure, axes = plt.subplots(2, 2, figsize=(11, 7))
for column, (title, project, table) in enumerate(
    [("even split", "{name}", even), ("uneven split", "{name}_non_iid", uneven)]
):
    settings = here("{name}", collab_id=COLLAB, project_id=project, expt_id=EXPERIMENT, run_id=RUN)
    curves = pd.DataFrame(losses(settings, driver)).set_index("round").astype(float)
    curves.plot(ax=axes[0, column], title=title, ylabel="loss", marker=".")
    table["{story.metric}"].plot.barh(ax=axes[1, column], xlabel="{story.metric}", color=["C2", "C7", "C0", "C1"])
    axes[1, column].invert_yaxis()
    axes[1, column].axvline(0, color="black", linewidth=0.8)
figure.tight_layout()""",
        ),
        *(searching(name, story) if tier.search else ()),
        (
            "markdown",
            """## Try

- Change `hyperparameters` (`rounds`, `lr`, another `algorithm`), give the run another name, and train again.
- Look at the records of everything above: `driver.runs.read_all(...)`, or http://127.0.0.1:5000/ttp/connect/.
- Follow a training from another notebook with `driver.jobs.follow()`, stop it with `driver.jobs.delete(job_id)`.""",
        ),
    ]


def notebook(name: str, story: Story, tier: Tier) -> dict[str, Any]:
    """Return a notebook without outputs."""
    found: list[dict[str, Any]] = []
    for index, (kind, text) in enumerate(cells(name, story, tier)):
        cell = {"cell_type": kind, "id": f"{kind}-{index}", "metadata": {}, "source": text.splitlines(keepends=True)}
        found.append({**cell, "execution_count": None, "outputs": []} if kind == "code" else cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": found, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def main() -> None:
    """Write every notebook below the folder named on the command line."""
    parser = argparse.ArgumentParser(description="Write the notebooks of the examples.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent, help="default: this one")
    folder = parser.parse_args().folder
    for (name, story), tier in itertools.product(STORIES.items(), TIERS):
        path = folder / name / f"{tier.name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(notebook(name, story, tier), indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
