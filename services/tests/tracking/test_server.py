"""The command of the image mlops: reset, and databases of other versions."""

from __future__ import annotations

import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from mlflow_server import Server, command


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(**command(root, *arguments), capture_output=True, timeout=120, check=False)


def form(path: Path) -> str:
    with closing(sqlite3.connect(path)) as database:
        return str(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def test_reset_deletes_everything_while_the_server_runs(mlflow: Server, tmp_path: Path) -> None:
    client = mlflow.client
    (tmp_path / "figure.txt").write_text("1")
    experiment = client.create_experiment("c_>_p_>_reset")
    made = client.create_run(experiment, run_name="r1")
    client.log_artifact(made.info.run_id, str(tmp_path / "figure.txt"))
    client.create_registered_model("registered")
    dry = run(mlflow.root, "reset", "--dry-run")
    assert client.get_run(made.info.run_id).info.run_name == "r1"
    done = run(mlflow.root, "reset")
    assert (dry.returncode, done.returncode, dry.stdout) == (0, 0, done.stdout), done.stderr
    assert {
        "experiment c_>_p_>_reset: 1 run",
        "registered model registered",
        str(mlflow.root / "artifacts" / experiment),
    } <= set(done.stdout.splitlines())
    assert [each.name for each in client.search_experiments()] == ["Default"]
    assert client.search_registered_models() == []
    assert list((mlflow.root / "artifacts").iterdir()) == []
    assert run(mlflow.root, "reset").stdout == ""
    # It goes on, from nothing.
    again = client.create_run(client.create_experiment("c_>_p_>_reset"), run_name="r1")
    client.log_artifact(again.info.run_id, str(tmp_path / "figure.txt"))
    assert [item.path for item in client.list_artifacts(again.info.run_id)] == ["figure.txt"]
    run(mlflow.root, "reset")


def test_a_database_of_a_newer_mlflow_is_left_alone(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TABLE alembic_version (version_num)")
        database.execute("INSERT INTO alembic_version VALUES ('f00d')")
        database.commit()
    refused = run(tmp_path)
    assert refused.returncode == 1
    assert "f00d" in refused.stderr and "newer" in refused.stderr and "Traceback" not in refused.stderr
    assert form(tmp_path / "mlflow.db") == "f00d"


def test_a_database_of_an_older_mlflow_is_migrated_and_kept(tmp_path: Path) -> None:
    older = "181f10493468"  # before runs had datasets
    code = (
        "import sys, sqlite3; from alembic import command; from mlflow.store.db.utils import _get_alembic_config\n"
        "import sqlalchemy as sa; from mlflow.store.tracking.dbmodels.initial_models import Base\n"
        "url = f'sqlite:///{sys.argv[1]}/mlflow.db'; engine = sa.create_engine(url); Base.metadata.create_all(engine)\n"
        "engine.dispose(); command.upgrade(_get_alembic_config(url), sys.argv[2])\n"
        "with sqlite3.connect(f'{sys.argv[1]}/mlflow.db') as database:\n"
        "    database.execute(\"INSERT INTO experiments (name, lifecycle_stage) VALUES ('kept', 'active')\")\n"
        "import synergos_mlops, pathlib; synergos_mlops.migrate(pathlib.Path(sys.argv[1]) / 'mlflow.db')\n"
    )
    whole = command(tmp_path)
    whole["args"] = [whole["args"][0], "-c", code, str(tmp_path), older]
    done = subprocess.run(**whole, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert form(tmp_path / f"mlflow-{older}.db") == older
    assert form(tmp_path / "mlflow.db") == form(Path("/opt/mlops/pristine.db"))
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        assert database.execute("SELECT name FROM experiments WHERE name = 'kept'").fetchall() == [("kept",)]
