"""The Flower ClientApp of a worker: what it does with the messages of one session."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Annotated, Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from pydantic import BaseModel, ConfigDict, Field, Json, TypeAdapter, ValidationError

from synergos.errors import Invalid
from synergos.federation import training
from synergos.federation.layers import probe
from synergos.federation.parameters import Parameters
from synergos.federation.sessions import Session

# Keys of the messages' records, as Flower's strategies expect them.
ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"


class Settings(BaseModel):
    """The config record of a message.

    Attributes:
        architecture: the model's layers as JSON.
        parameters: the run parameters as JSON.
        class_weights: weight of each aligned class in the loss, as JSON.
        schedules: node id → state of the schedule after the last round that the node took part in, as JSON. Nothing is
            kept here from round to round, so that a worker that was restarted goes on as if it had not been.
        evaluate: whether to evaluate the weights before training on.
        meta: the set that a query is about.
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    architecture: str
    parameters: str
    class_weights: Json[list[Annotated[float, Field(gt=0)]]] | None = None
    schedules: Json[dict[int, dict[str, float]]] = Field(default_factory=dict)
    server_round: int = Field(0, ge=0, alias="server-round")
    proximal_mu: float = Field(0.0, ge=0, alias="proximal-mu")
    evaluate: bool = False
    meta: str = "predict"


_MODEL = TypeAdapter(Json[list[dict[str, Any]]])
_PARAMETERS = TypeAdapter(Json[dict[str, Any]])


class _Trainee:
    """A model and its objective, with this session's rows in the form that they need."""

    def __init__(self, session: Session, settings: Settings) -> None:
        model = _MODEL.validate_python(settings.architecture)
        self.parameters = Parameters.read(_PARAMETERS.validate_python(settings.parameters))
        if not session.data:
            raise Invalid("There is no data to work with.")
        split = next(iter(session.data.values()))
        network, width = probe(model, split.X.shape[1:])
        # Every weight comes with the message: nothing to initialise, and no random numbers drawn from a running turn.
        self.network = network.to_empty(device=training.device())
        self.objective = self.parameters.objective(session.action, network.final, width, settings.class_weights)
        self.labelled = {
            meta: training.Labelled.of(split, self.objective, meta)
            for meta, split in session.data.items()
            if split.y is not None and len(split.X)
        }


def client_app(session: Session, is_open: Callable[[], bool]) -> ClientApp:
    """Return the app that answers the messages of `session`.

    - train: trains on the `train` set. With `evaluate` in the config it first evaluates the weights it was sent, so
      that the aggregate of the round before needs no journey of its own. Where the learning-rate schedule depends on
      more than the round, its state goes back as `schedule` in the record `config`.
    - evaluate: loss of the weights on the `evaluate` set.
    - query: runs the model on the set named `meta` and hands the outcome to `session.record`; only what that returns
      leaves the worker.

    Args:
        is_open: whether the session still stands; training stops when it does not.
    """
    app = ClientApp()
    trainees: dict[str, _Trainee] = {}

    def load(message: Message) -> tuple[_Trainee, Settings]:
        arrays, config = message.content.get(ARRAYS), message.content.get(CONFIG)
        if not isinstance(arrays, ArrayRecord) or not isinstance(config, ConfigRecord):
            raise Invalid("A message carries weights as 'arrays' and settings as 'config'.")
        try:
            settings = Settings.model_validate(dict(config))
            key = json.dumps([settings.architecture, settings.parameters, settings.class_weights])
            if key not in trainees:
                trainees.clear()
                trainees[key] = _Trainee(session, settings)
        except ValidationError as error:
            first = error.errors()[0]
            raise Invalid(f"The settings of a message: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
        training.load_record(trainees[key].network, arrays)
        return trainees[key], settings

    def evaluation(trainee: _Trainee) -> dict[str, int | float]:
        data = trainee.labelled.get("evaluate")
        if data is None:
            return {"evaluate-examples": 0, "evaluate-loss": 0.0}
        loss = training.evaluate(trainee.network, data, trainee.objective)
        return {"evaluate-examples": len(data), "evaluate-loss": loss}

    @app.train()
    def train(message: Message, _: Context) -> Message:
        trainee, settings = load(message)
        data = trainee.labelled.get("train")
        if data is None:
            raise Invalid("There are no labelled rows in the train set.")
        begin = time.perf_counter()
        measured = evaluation(trainee) if settings.evaluate else {}
        turn = training.Turn(message.metadata.dst_node_id, settings.server_round)
        loss, schedule = training.fit(
            trainee.network,
            data,
            trainee.parameters,
            trainee.objective,
            turn,
            mu=settings.proximal_mu,
            is_open=is_open,
            schedule=settings.schedules.get(turn.participant),
        )
        seconds = time.perf_counter() - begin
        metrics = MetricRecord({"num-examples": len(data), "train-loss": loss, "seconds": seconds, **measured})
        content = RecordDict({ARRAYS: training.to_record(trainee.network, copy=False), METRICS: metrics})
        if schedule is not None:
            content[CONFIG] = ConfigRecord({"schedule": json.dumps(schedule, allow_nan=False)})
        return Message(content, reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, _: Context) -> Message:
        trainee, _settings = load(message)
        return Message(RecordDict({METRICS: MetricRecord({**evaluation(trainee)})}), reply_to=message)

    @app.query()
    def query(message: Message, _: Context) -> Message:
        trainee, settings = load(message)
        if settings.meta not in session.data:
            raise Invalid(f"There is no {settings.meta} set.")
        outcome = training.infer(trainee.network, session.data[settings.meta].X, trainee.objective)
        result = json.dumps(session.record(settings.meta, *outcome), allow_nan=False)
        return Message(RecordDict({CONFIG: ConfigRecord({"result": result})}), reply_to=message)

    return app
