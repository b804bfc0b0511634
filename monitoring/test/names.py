"""What dashboards and alerts ask for, and what docs/metrics.md promises."""
import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DASHBOARDS = sorted((ROOT / "monitoring/grafana/dashboards").glob("*.json"))
ALERTS = ROOT / "monitoring/prometheus/alerts.yaml"
DOCS = ROOT / "docs/metrics.md"

NAME = re.compile(r"\b(?:fanfare|process)_[a-z0-9_]+")


def documented() -> dict[str, tuple[str, set[str]]]:
    """name -> (type, labels), from the tables of docs/metrics.md."""
    rows = re.findall(
        r"^\| `(\w+)` \| (gauge|counter|histogram) \|([^|]*)\|", DOCS.read_text(), re.M
    )
    return {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def exposed() -> set[str]:
    """The series names that those metrics make."""
    names = set()
    for name, (kind, _) in documented().items():
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        names |= {name + suffix for suffix in suffixes}
    return names


def queries(dashboard: pathlib.Path) -> list[tuple[str, str]]:
    """(panel, PromQL) of every panel and annotation, with Grafana's variables filled in."""
    model = json.loads(dashboard.read_text())
    found = [(p["title"], t["expr"]) for p in model["panels"] for t in p.get("targets", [])]
    found += [(a["name"], a["expr"]) for a in model["annotations"]["list"] if "expr" in a]
    return [(title, fill(expr)) for title, expr in found]


def fill(expr: str) -> str:
    for variable, value in {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*"}.items():
        expr = expr.replace(variable, value)
    return expr
