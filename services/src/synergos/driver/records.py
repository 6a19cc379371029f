"""Tasks of phase 1: the records that describe a federated project."""

from __future__ import annotations

from typing import Any

from synergos.driver.base import DriverError, Reply, Task, join

_CONNECT = ("ttp", "connect")


class CollaborationTask(Task):
    """Collaborations and the components that serve them.

    The `configure_…` methods only note what the next `create` or `update` of the same object sends.
    """

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__(address, **options)
        self._components: dict[str, Any] = {}

    def configure_catalogue(self, host: str, port: int, ui_port: int = 0, secure: bool = False) -> Reply:
        """Note where the catalogue is reached."""
        return self._configure("catalogue", host, {"main": port, "ui": ui_port}, secure)

    def configure_logger(
        self,
        host: str,
        port: int,
        sysmetrics_port: int,
        director_port: int,
        ttp_port: int,
        worker_port: int,
        ui_port: int = 0,
        secure: bool = False,
    ) -> Reply:
        """Note where the log server is reached, with one input per kind of sender."""
        ports = {
            "main": port,
            "ui": ui_port,
            "sysmetrics": sysmetrics_port,
            "director": director_port,
            "ttp": ttp_port,
            "worker": worker_port,
        }
        return self._configure("logs", host, ports, secure)

    def configure_meter(self, host: str, port: int, ui_port: int = 0, secure: bool = False) -> Reply:
        """Note where the meter is reached."""
        return self._configure("meter", host, {"main": port, "ui": ui_port}, secure)

    def configure_mlops(self, host: str, port: int, ui_port: int = 0, secure: bool = False) -> Reply:
        """Note where the experiment tracker is reached."""
        return self._configure("mlops", host, {"main": port, "ui": ui_port}, secure)

    def configure_mq(self, host: str, port: int, ui_port: int = 0, secure: bool = False) -> Reply:
        """Note where the queue is reached."""
        return self._configure("mq", host, {"main": port, "ui": ui_port}, secure)

    def create(self, collab_id: str, **kwargs: Any) -> Reply:
        """Create a collaboration with the components noted so far."""
        return self._post(_collaborations(), {"collab_id": collab_id, **self._taken(), **kwargs})

    def read_all(self) -> Reply:
        """Return all collaborations."""
        return self._get(_collaborations())

    def read(self, collab_id: str) -> Reply:
        """Return one collaboration."""
        return self._get(_collaborations(collab_id))

    def update(self, collab_id: str, **updates: Any) -> Reply:
        """Change components: those noted so far, and `updates`."""
        return self._put(_collaborations(collab_id), {**self._taken(), **updates})

    def delete(self, collab_id: str) -> Reply:
        """Delete a collaboration."""
        return self._delete(_collaborations(collab_id))

    def _configure(self, name: str, host: str, ports: dict[str, int], secure: bool) -> Reply:
        component = {name: {"host": host, "ports": ports, "secure": secure}}
        self._components.update(component)
        return component

    def _taken(self) -> dict[str, Any]:
        taken, self._components = self._components, {}
        return taken


class ProjectTask(Task):
    """Projects of a collaboration."""

    def create(self, collab_id: str, project_id: str, action: str, incentives: Reply, **kwargs: Any) -> Reply:
        """Create a project.

        Args:
            action: `regress` or `classify`.
            incentives: tier → participants.
            kwargs: `start_at` and `universe_alignment` are sent, others are ignored.
        """
        payload = {"collab_id": collab_id, "project_id": project_id, "action": action, "incentives": incentives}
        return self._post(_projects(collab_id), {**payload, **_picked(kwargs, "start_at", "universe_alignment")})

    def read_all(self, collab_id: str) -> Reply:
        """Return all projects of a collaboration."""
        return self._get(_projects(collab_id))

    def read(self, collab_id: str, project_id: str) -> Reply:
        """Return one project."""
        return self._get(_projects(collab_id, project_id))

    def update(self, collab_id: str, project_id: str, **updates: Any) -> Reply:
        """Change fields of a project."""
        return self._put(_projects(collab_id, project_id), updates)

    def delete(self, collab_id: str, project_id: str) -> Reply:
        """Delete a project."""
        return self._delete(_projects(collab_id, project_id))


class ExperimentTask(Task):
    """Experiments of a project: one model architecture each."""

    def create(self, collab_id: str, project_id: str, expt_id: str, model: list[Reply], **kwargs: Any) -> Reply:
        """Create an experiment.

        Args:
            model: layers, each {is_input, l_type, structure, activation}.
            kwargs: ignored.
        """
        return self._post(_experiments(collab_id, project_id), {"expt_id": expt_id, "model": model})

    def read_all(self, collab_id: str, project_id: str) -> Reply:
        """Return all experiments of a project."""
        return self._get(_experiments(collab_id, project_id))

    def read(self, collab_id: str, project_id: str, expt_id: str) -> Reply:
        """Return one experiment."""
        return self._get(_experiments(collab_id, project_id, expt_id))

    def update(self, collab_id: str, project_id: str, expt_id: str, **updates: Any) -> Reply:
        """Change the model of an experiment."""
        return self._put(_experiments(collab_id, project_id, expt_id), updates)

    def delete(self, collab_id: str, project_id: str, expt_id: str) -> Reply:
        """Delete an experiment."""
        return self._delete(_experiments(collab_id, project_id, expt_id))


class RunTask(Task):
    """Runs of an experiment: one set of hyperparameters each."""

    def create(
        self,
        collab_id: str,
        project_id: str,
        expt_id: str,
        run_id: str,
        algorithm: str = "FedProx",
        batch_size: int | None = None,
        rounds: int = 10,
        epochs: int = 100,
        lr: float = 0.001,
        weight_decay: float = 0.0,
        lr_decay: float = 0.1,
        mu: float = 0.1,
        l1_lambda: float = 0.0,
        l2_lambda: float = 0.0,
        optimizer: str = "SGD",
        criterion: str = "BCELoss",
        lr_scheduler: str = "CyclicLR",
        delta: float = 0.0,
        patience: int = 10,
        seed: int = 42,
        is_condensed: bool = True,
        is_snn: bool = False,
        precision_fractional: int = 5,
        **kwargs: Any,
    ) -> Reply:
        """Create a run; what is None is not sent.

        Args:
            batch_size: rows per step, None for all of them.
            rounds: exchanges of the model between the participants and the TTP.
            epochs: passes over the own data within a round.
            kwargs: further arguments of the optimizer, criterion or scheduler (`base_lr`, `max_lr`, …).
        """
        payload = {
            "run_id": run_id,
            "algorithm": algorithm,
            "batch_size": batch_size,
            "rounds": rounds,
            "epochs": epochs,
            "lr": lr,
            "weight_decay": weight_decay,
            "lr_decay": lr_decay,
            "mu": mu,
            "l1_lambda": l1_lambda,
            "l2_lambda": l2_lambda,
            "optimizer": optimizer,
            "criterion": criterion,
            "lr_scheduler": lr_scheduler,
            "delta": delta,
            "patience": patience,
            "seed": seed,
            "is_condensed": is_condensed,
            "is_snn": is_snn,
            "precision_fractional": precision_fractional,
            **kwargs,
        }
        sent = {name: value for name, value in payload.items() if value is not None}
        return self._post(_runs(collab_id, project_id, expt_id), sent)

    def read_all(self, collab_id: str, project_id: str, expt_id: str) -> Reply:
        """Return all runs of an experiment."""
        return self._get(_runs(collab_id, project_id, expt_id))

    def read(self, collab_id: str, project_id: str, expt_id: str, run_id: str) -> Reply:
        """Return one run."""
        return self._get(_runs(collab_id, project_id, expt_id, run_id))

    def update(self, collab_id: str, project_id: str, expt_id: str, run_id: str, **updates: Any) -> Reply:
        """Change hyperparameters of a run."""
        return self._put(_runs(collab_id, project_id, expt_id, run_id), updates)

    def delete(self, collab_id: str, project_id: str, expt_id: str, run_id: str) -> Reply:
        """Delete a run."""
        return self._delete(_runs(collab_id, project_id, expt_id, run_id))


class ParticipantTask(Task):
    """Participants: the organisations that own data."""

    def create(
        self,
        participant_id: str,
        category: list[str] | None = None,
        summary: str | None = None,
        phone: str | None = None,
        email: str | None = None,
        socials: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> Reply:
        """Create a participant; further `kwargs` are ignored."""
        payload = {
            "id": participant_id,
            "category": category,
            "summary": summary,
            "phone": phone,
            "email": email,
            "socials": socials,
        }
        return self._post(_participants(), payload)

    def read_all(self) -> Reply:
        """Return all participants."""
        return self._get(_participants())

    def read(self, participant_id: str) -> Reply:
        """Return one participant."""
        return self._get(_participants(participant_id))

    def update(self, participant_id: str, **updates: Any) -> Reply:
        """Change fields of a participant's profile."""
        return self._put(_participants(participant_id), updates)

    def delete(self, participant_id: str) -> Reply:
        """Delete a participant with its registrations."""
        return self._delete(_participants(participant_id))


class RegistrationTask(Task):
    """Participants' places in projects. Nodes are noted in one object first, then `create` sends them."""

    def __init__(self, address: str, **options: Any) -> None:
        super().__init__(address, **options)
        self._nodes: list[Reply] = []

    def add_node(self, host: str, port: int, f_port: int, log_msgs: bool = False, verbose: bool = False) -> str:
        """Note a worker and return its name (`node_0`, …); a worker that is noted already keeps its name.

        Args:
            port: data port of the worker.
            f_port: command port of the worker.
        """
        node = {"host": host, "port": port, "f_port": f_port, "log_msgs": log_msgs, "verbose": verbose}
        if node not in self._nodes:
            self._nodes.append(node)
        return f"node_{self._nodes.index(node)}"

    def remove_node(self, node_id: str) -> Reply:
        """Forget a worker and return it; later ones move up. Raises `KeyError` if there is none of that name."""
        names = [f"node_{index}" for index in range(len(self._nodes))]
        if node_id not in names:
            raise KeyError(f"{node_id} is not one of the nodes {names}")
        return self._nodes.pop(names.index(node_id))

    def list_nodes(self) -> list[Reply]:
        """Return the workers noted so far."""
        return list(self._nodes)

    def count_nodes(self) -> int:
        """Return the number of workers noted so far."""
        return len(self._nodes)

    def create(self, collab_id: str, project_id: str, participant_id: str, role: str, **kwargs: Any) -> Reply:
        """Register a participant with the workers noted so far, in place of an earlier registration with its tags.

        Args:
            role: `host`, `guest` or `arbiter`.
            kwargs: ignored.

        Raises:
            RuntimeError: no worker is noted; nothing has been sent.
        """
        if not self._nodes:
            raise RuntimeError("A registration needs at least one node: call add_node first.")
        path = _registration(collab_id, project_id, participant_id)
        nodes = {f"node_{index}": node for index, node in enumerate(self._nodes)}
        if self._exists(path):
            self._delete(path)
        reply = self._post(path, {"role": role, "n_count": len(nodes), **nodes})
        self._nodes.clear()
        return reply

    def read_all(
        self, collab_id: str | None = None, project_id: str | None = None, participant_id: str | None = None
    ) -> Reply:
        """Return the registrations of a participant, a collaboration, a project, or a combination of them."""
        match collab_id, project_id, participant_id:
            case None, None, str(w):
                return self._get(f"{_participants(w)}/registrations")
            case str(c), None, str(w):
                return self._get(f"{_participants(w)}{join('collaborations', c)}/registrations")
            case str(c), None, None:
                return self._get(f"{_collaborations(c)}/registrations")
            case str(c), str(p), None:
                return self._get(f"{_projects(c, p)}/registrations")
            case str(c), str(p), str(w):
                return self._get(_registration(c, p, w))
        raise ValueError("Give a participant_id, a collab_id, both, or a collab_id with a project_id.")

    def read(self, collab_id: str, project_id: str, participant_id: str) -> Reply:
        """Return one registration."""
        return self._get(_registration(collab_id, project_id, participant_id))

    def update(self, collab_id: str, project_id: str, participant_id: str, **updates: Any) -> Reply:
        """Change fields of a registration."""
        return self._put(_registration(collab_id, project_id, participant_id), updates)

    def delete(self, collab_id: str, project_id: str, participant_id: str) -> Reply:
        """Delete a registration with its tags."""
        return self._delete(_registration(collab_id, project_id, participant_id))

    def _exists(self, path: str) -> bool:
        try:
            return self._get(path).get("status") == 200
        except DriverError as error:
            if error.status == 404:
                return False
            raise


class TagTask(Task):
    """Which data a participant brings into a project."""

    def create(
        self,
        collab_id: str,
        project_id: str,
        participant_id: str,
        train: list[list[str]],
        evaluate: list[list[str]] | None = None,
        predict: list[list[str]] | None = None,
        **kwargs: Any,
    ) -> Reply:
        """Tag a registration's data.

        Args:
            train: paths below the worker's data folder, each a list of folder names; `evaluate` and `predict` too.
            kwargs: `model` and `hyperparameters` are sent, others are ignored.
        """
        payload = {"train": train, "evaluate": evaluate or [], "predict": predict or []}
        path = f"{_registration(collab_id, project_id, participant_id)}/tags"
        return self._post(path, {**payload, **_picked(kwargs, "model", "hyperparameters")})

    def read(self, collab_id: str, project_id: str, participant_id: str) -> Reply:
        """Return the tags of a registration."""
        return self._get(f"{_registration(collab_id, project_id, participant_id)}/tags")

    def update(self, collab_id: str, project_id: str, participant_id: str, **updates: Any) -> Reply:
        """Change tags of a registration."""
        return self._put(f"{_registration(collab_id, project_id, participant_id)}/tags", updates)

    def delete(self, collab_id: str, project_id: str, participant_id: str) -> Reply:
        """Delete the tags of a registration."""
        return self._delete(f"{_registration(collab_id, project_id, participant_id)}/tags")


def _picked(kwargs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: kwargs[name] for name in names if kwargs.get(name) is not None}


def _collaborations(*ids: str) -> str:
    return join(*_CONNECT, "collaborations", *ids)


def _projects(collab_id: str, *ids: str) -> str:
    return _collaborations(collab_id) + join("projects", *ids)


def _experiments(collab_id: str, project_id: str, *ids: str) -> str:
    return _projects(collab_id, project_id) + join("experiments", *ids)


def _runs(collab_id: str, project_id: str, expt_id: str, *ids: str) -> str:
    return _experiments(collab_id, project_id, expt_id) + join("runs", *ids)


def _participants(*ids: str) -> str:
    return join(*_CONNECT, "participants", *ids)


def _registration(collab_id: str, project_id: str, participant_id: str) -> str:
    return _projects(collab_id, project_id) + join("participants", participant_id, "registration")
