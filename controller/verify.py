"""Check the paper's tables number by number: ours beside theirs, each with a verdict that statistics support.

    python controller/verify.py all
    python controller/verify.py doom --run runs/doom --out runs/doom/verify
    python controller/verify.py carracing --json verify.json

Reads what comes with the project, or what a run (--run) and its studies hold, in seconds: weights, training logs, and every
return of every scoring. Nothing is trained or played. A scoring of another V, M or C than those that are there now is refused, and the
command then ends with exit code 1. With --out, the tables are also written as Markdown, and plots beside them.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from typing import Any

from controller.results.evidence import Agent, Evidence, of_run, of_shipped
from controller.results.tables import Table, all_tables
from env.run.command import GAMES, check_writable, run_command
from env.run.compute import limit_threads
from env.run.errors import UserError
from env.run.files import write_atomic, write_json
from env.run.flags import OneLineParser
from env.tasks import TASKS, get_task


def gather(word: str, run: Path | None) -> list[Evidence]:
    """All evidence of the game `word`, or of all games that come with the project."""
    if run is not None and word == "all":
        raise UserError(f"--run is one game's: name it, {' or '.join(TASKS)}, instead of all")
    tasks = [get_task(name) for name in (TASKS if word == "all" else [word])]
    if run is not None:
        return [of_run(task, run) for task in tasks]
    return [of_shipped(task) for task in tasks]


def to_markdown(evidence: Evidence, tables: list[Table]) -> str:
    """The tables of one game."""
    return "\n\n".join([f"## {evidence.task.shown}: {evidence.source}", *(table.markdown() for table in tables)]) + "\n"


def to_json(evidence: Evidence, tables: list[Table]) -> dict[str, Any]:
    """The same for programs."""
    return {"source": evidence.source, "tables": {table.title: table.data for table in tables}}


def write_out(folder: Path, evidence: Evidence, text: str) -> None:
    """FOLDER/TASK.md, and the plots that it shows."""
    import matplotlib

    matplotlib.use("Agg")
    from controller.results.pictures import plot_against_authors

    name = evidence.task.name
    plotted = plot_against_authors(evidence, folder / f"{name}.png")
    text += f"\n![Evolution and trainings beside the authors']({name}.png)\n" if plotted else ""
    write_atomic(folder / f"{name}.md", lambda file: file.write(text.encode()))
    print(f"verify: {folder / name}.md")


def whole(evidence: Evidence) -> list[Agent]:
    """All agents of a game, those of other systems, too."""
    return [*evidence.agents, *(agent for agent, _ in evidence.systems)]


def main() -> None:
    parser = OneLineParser(description=__doc__, prog="verify.py")
    parser.add_argument("task", nargs="?", default="all", metavar="TASK", help=f"all, {GAMES} (default: all)")
    parser.add_argument("--run", type=Path, metavar="DIR", help="check this run and its studies (default: what comes with the project)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="also write the tables, as Markdown, and plots into this folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures to this file")
    parsed = parser.parse_args()
    check_writable(parsed.json)
    found = gather(parsed.task, parsed.run)
    limit_threads()
    checked = {evidence.task.name: (evidence, all_tables(evidence)) for evidence in found}
    for evidence, tables in checked.values():
        text = to_markdown(evidence, tables)
        print(text)
        if parsed.out:
            write_out(parsed.out, evidence, text)
    if parsed.json:
        write_json(parsed.json, {name: to_json(*pair) for name, pair in checked.items()})
    refused = [
        f"{name}'s {agent.name} ({agent.stale})" for name, (evidence, _) in checked.items() for agent in whole(evidence) if agent.stale
    ]
    if refused:
        print(f"refused: {', '.join(refused)}: score again with controller/evaluate.py", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run_command(main)
