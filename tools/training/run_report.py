"""The page of one run: curves, figures of the validations, the last picture, and how to do it again."""

import json
import shlex
from pathlib import Path

from tools.progress import duration_text
from tools.report import ReportContent, Section, read_training_log, write_report
from tools.training.checkpoint_files import checkpoints
from tools.training.run_folder import RunFolder
from tools.training.validation import PICTURE


def write_run_report(run: RunFolder) -> Path:
    """Write report.html of a run, finished or not, from what is in its folder."""
    rows = read_training_log(run.metrics)
    validations = [row for row in rows if "val/NDS" in row]
    environment = json.loads(run.environment.read_text()) if run.environment.is_file() else {}
    facts = [("steps", f"{len(rows)}")]
    if rows:
        facts.append(("loss of the last step", f"{rows[-1].get('loss', float('nan')):.3f}"))
        facts.append(("in training", duration_text(rows[-1].get("seconds", 0.0))))
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
            sentence=f"Trained at revision {environment.get('git_revision') or 'unknown'}.",
            facts=facts,
            commands=[shlex.join(map(str, environment.get("command", [])))],
            training_log=rows,
            metrics=None,
            metrics_sentence="",
            pictures=[picture] if picture.is_file() else [],
            sections=[Section("Weights", "What is kept of the network, in the run's folder.", kept)],
            environment=environment,
            config=run.config.read_text() if run.config.is_file() else "",
        ),
    )
