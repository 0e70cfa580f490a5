"""The page of one run: curves, figures of the validations, the last picture, and how to do it again."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tools.progress import duration_text
from tools.report import ReportContent, Section, read_training_log, seconds_in_training, write_report
from tools.training.checkpoint_files import checkpoints
from tools.training.run_folder import RunFolder
from tools.training.validation import PICTURE


def write_run_report(run: RunFolder, failure: str | None = None) -> Path:
    """Write report.html of a run, finished or not, from what is in its folder; `failure`: what ended it.

    Raises OSError where it cannot be written.
    """
    rows = read_training_log(run.metrics)
    validations = [row for row in rows if "val/NDS" in row]
    environment = run.read_environment()
    facts = [("steps", f"{len(rows)}")]
    if rows:
        facts.append(("loss of the last step", f"{rows[-1].get('loss', float('nan')):.3f}"))
        facts.append(("in training", duration_text(seconds_in_training(rows))))
    if validations:
        best = max(validations, key=lambda row: row["val/NDS"])
        facts += [("best NDS", f"{best['val/NDS']:.3f}"), ("mAP with it", f"{best.get('val/mAP', float('nan')):.3f}")]
        facts.append(("after step", f"{best['step'] + 1:.0f}"))
    picture = run.validation / PICTURE
    files = [run.weights, run.best, *checkpoints(run.checkpoints)]
    kept = "\n".join(str(path.relative_to(run.path)) for path in files if path.exists())
    return write_report(
        run.report,
        ReportContent(
            title=f"Run {run.path.name}",
            sentence=_revisions(environment),
            facts=facts,
            commands=[shlex.join(map(str, environment.get("command", [])))],
            training_log=rows,
            metrics=None,
            metrics_sentence="",
            pictures=[picture] if picture.is_file() else [],
            sections=[
                *([] if failure is None else [Section("Failed", failure)]),
                Section("Weights", "What is kept of the network, in the run's folder.", kept),
                *_other_environments(environment),
            ],
            environment=environment,
            config=run.config.read_text() if run.config.is_file() else "",
        ),
    )


def _revisions(environment: Mapping[str, Any]) -> str:
    """Which source trained the run, and from where on another one did."""
    before = environment.get("git_revision")
    text = f"Trained at revision {before or 'unknown'}"
    for session in environment.get("resumed", []):
        if (revision := session.get("git_revision")) != before:
            text += f", from step {session['from_step']} at {revision or 'an unknown one'}"
        before = revision
    return f"{text}."


def _other_environments(environment: Mapping[str, Any]) -> list[Section]:
    """What else changed where the run went on: versions, machine, threads."""
    lines, before = [], environment
    for session in environment.get("resumed", []):
        changed = {name: value for name, value in session.items() if name not in ("from_step", "command")}
        changed = {name: value for name, value in changed.items() if value != before.get(name)}
        lines += [f"from step {session['from_step']}: {name} {value}" for name, value in changed.items()]
        before = session
    if not lines:
        return []
    return [Section("Sessions", "The run went on in another environment than it had before.", "\n".join(lines))]
