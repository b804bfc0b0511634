#!/usr/bin/env python3
"""Every query of the dashboards parses, uses documented metrics and labels only, and every panel
says what to do. Needs promtool (Debian: prometheus)."""
import json
import re
import subprocess
import sys
import tempfile

import names

GRAFANA_UNITS = {"short", "ops", "Bps", "bytes", "s", "percentunit"}
FROM_SCRAPE = {"job", "instance", "le"}


def problems(dashboard) -> list[str]:
    model = json.loads(dashboard.read_text())
    known, documented = names.exposed(), names.documented()
    labels = FROM_SCRAPE.union(*(found for _, found in documented.values()))
    panels = [p for p in model["panels"] if p["type"] != "row"]
    found = []
    for title, expr in names.queries(dashboard):
        found += [f"{title}: {n} is not in docs/metrics.md" for n in names.NAME.findall(expr) if n not in known]
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expr))
        for group in re.findall(r"\bby \(([^)]*)\)", expr):
            used |= {label.strip() for label in group.split(",")}
        found += [f"{title}: no metric has the label {label}" for label in used - labels]
    for panel in panels:
        where = panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        if len(panel.get("description", "")) < 20:
            found.append(f"{where}: the description does not say what to do")
        if panel["type"] != "heatmap" and defaults.get("unit") not in GRAFANA_UNITS:
            found.append(f"{where}: unit {defaults.get('unit')}")
        for target in panel["targets"]:
            if 'job=~"$job"' not in target["expr"] or 'instance=~"$instance"' not in target["expr"]:
                found.append(f"{where}: {target['expr']} ignores the variables job and instance")
    ids = [p["id"] for p in model["panels"]]
    if len(ids) != len(set(ids)):
        found.append("two panels share an id")
    cells = [(x, y) for p in model["panels"] for g in [p["gridPos"]]
             for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])]
    if len(cells) != len(set(cells)) or any(x > 23 for x, _ in cells):
        found.append("panels overlap or leave the grid")
    return found


def parses(dashboard) -> bool:
    """PromQL's own parser: every query as a recording rule."""
    rules = [{"record": f"query:{i}", "expr": expr} for i, (_, expr) in enumerate(names.queries(dashboard))]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump({"groups": [{"name": dashboard.stem, "rules": rules}]}, file)
        file.flush()
        return subprocess.run(["promtool", "check", "rules", file.name], stdout=subprocess.DEVNULL).returncode == 0


def main() -> int:
    failed = False
    alerts = names.ALERTS.read_text()
    unknown = set(names.NAME.findall(alerts)) - names.exposed() - names.documented().keys()
    for name in sorted(unknown):
        print(f"alerts.yaml: {name} is not in docs/metrics.md", file=sys.stderr)
        failed = True
    for dashboard in names.DASHBOARDS:
        found = problems(dashboard)
        for problem in found:
            print(f"{dashboard.name}: {problem}", file=sys.stderr)
        if found or not parses(dashboard):
            failed = True
        else:
            print(f"{dashboard.name}: {len(names.queries(dashboard))} queries are sound")
    return int(failed or not names.DASHBOARDS)


if __name__ == "__main__":
    sys.exit(main())
