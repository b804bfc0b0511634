#!/usr/bin/env python3
"""Every alert fires on its fault, alone, and none on a healthy fleet.

Writes one `promtool test rules` file: for each alert an hour of a healthy fleet with one thing
wrong, at the end of which exactly that alert must fire. Needs promtool (Debian: prometheus).
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

RULES = pathlib.Path(__file__).resolve().parent.parent / "prometheus" / "alerts.yaml"

# name{labels} without job and instance: values of an hour, a sample a minute
HEALTHY = {
    'up': '1x60',
    'process_open_fds': '1100x60',
    'process_max_fds': '1048576x60',
    'process_start_time_seconds': '1000x60',
    'fanfare_build_info{version="0.1.0"}': '1x60',
    'fanfare_broker_up{backend="redis"}': '1x60',
    'fanfare_broker_reconnects_total{backend="redis"}': '2x60',
    'fanfare_broker_probe_failures_total{backend="redis"}': '1x60',
    'fanfare_broker_gaps_total{backend="redis",cause="reconnected"}': '3x60',
    'fanfare_broker_undeliverable_total{backend="redis",reason="not_utf8"}': '1x60',
    'fanfare_broker_published_total{backend="redis",outcome="ok"}': '0+6000x60',
    'fanfare_broker_published_total{backend="redis",outcome="error"}': '0+6x60',
    'fanfare_broker_publish_seconds_bucket{backend="redis",le="0.1"}': '0+6000x60',
    'fanfare_broker_publish_seconds_bucket{backend="redis",le="10"}': '0+6000x60',
    'fanfare_broker_publish_seconds_bucket{backend="redis",le="+Inf"}': '0+6000x60',
    'fanfare_broker_lag_seconds_bucket{backend="redis",le="0.1"}': '0+6000x60',
    'fanfare_broker_lag_seconds_bucket{backend="redis",le="10"}': '0+6000x60',
    'fanfare_broker_lag_seconds_bucket{backend="redis",le="+Inf"}': '0+6000x60',
    'fanfare_recorder_role{role="recorder"}': '1x60',
    'fanfare_recorder_role{instance="edge-2",role="standby"}': '1x60',
    'fanfare_recorder_role{instance="edge-2",role="idle"}': '0x60',
    'fanfare_recorder_role{instance="edge-3",role="idle"}': '1x60',
    'fanfare_recorder_takeovers_total{outcome="hole"}': '1x60',
    'fanfare_delivery_latency_seconds_bucket{le="0.1"}': '0+6000x60',
    'fanfare_delivery_latency_seconds_bucket{le="10"}': '0+6000x60',
    'fanfare_delivery_latency_seconds_bucket{le="+Inf"}': '0+6000x60',
    'fanfare_delivery_resumes_total{outcome="complete"}': '0+600x60',
    'fanfare_delivery_resumes_total{outcome="gap"}': '0+6x60',
    'fanfare_delivery_closes_total{reason="client"}': '0+600x60',
    'fanfare_delivery_closes_total{reason="slow"}': '0+6x60',
    'fanfare_delivery_filter_failures_total': '0x60',
    'fanfare_delivery_feed_depth': '0 5000 0 0 3000 0x55',
    'fanfare_edge_ready': '1x60',
    'fanfare_edge_draining': '0x60',
    'fanfare_edge_connections': '1000x60',
    'fanfare_edge_connections{instance="edge-2"}': '900x60',
    'fanfare_edge_connections{instance="edge-3"}': '1100x60',
    'fanfare_edge_connections_limit': '200000x60',
    'fanfare_edge_accept_errors_total{reason="fd_limit"}': '0x60',
    'fanfare_edge_sockets_refused_total': '7x60',
    'fanfare_edge_tls_certificate_expiry_timestamp_seconds': '7776000x60',
    'fanfare_edge_requests_total{route="events",status="2xx"}': '0+600x60',
    'fanfare_edge_requests_total{route="publish",status="2xx"}': '0+6000x60',
    'fanfare_edge_requests_total{route="publish",status="5xx"}': '0+6x60',
    'fanfare_edge_refusals_total{reason="connections_per_client"}': '0+60x60',
}

# What goes wrong: the series that differ from the healthy fleet.
FAULTS = {
    'FanfareDown': {'up': '1x10 0x49'},
    'FanfareAbsent': {'fanfare_build_info{version="0.1.0"}': '1x10 stale'},
    'FanfareBusDown': {'fanfare_broker_up{backend="redis"}': '1x10 0x49'},
    'FanfareNotReady': {'fanfare_edge_ready': '1x10 0x49'},
    'FanfareBusFlapping': {'fanfare_broker_reconnects_total{backend="redis"}': '0+1x60'},
    'FanfareProbeFailing': {'fanfare_broker_probe_failures_total{backend="redis"}': '0+1x60'},
    'FanfareEventsLost': {'fanfare_broker_gaps_total{backend="redis",cause="reconnected"}': '0x54 1x5'},
    'FanfareNobodyRecords': {'fanfare_recorder_role{role="recorder"}': '1x10 0x49'},
    'FanfareRecorderHole': {'fanfare_recorder_takeovers_total{outcome="hole"}': '0x54 1x5'},
    'FanfareNoStandby': {
        'fanfare_recorder_role{instance="edge-2",role="standby"}': '1x10 0x49',
        'fanfare_recorder_role{instance="edge-2",role="idle"}': '0x10 1x49',
    },
    'FanfareResumesIncomplete': {'fanfare_delivery_resumes_total{outcome="gap"}': '0+60x60'},
    'FanfareUndeliverable': {'fanfare_broker_undeliverable_total{backend="redis",reason="not_utf8"}': '0x54 4x5'},
    'FanfarePublishErrors': {'fanfare_broker_published_total{backend="redis",outcome="error"}': '0+600x60'},
    'FanfarePublishSlow': {'fanfare_broker_publish_seconds_bucket{backend="redis",le="0.1"}': '0+3000x60'},
    'FanfareBusLagHigh': {'fanfare_broker_lag_seconds_bucket{backend="redis",le="0.1"}': '0+3000x60'},
    'FanfareDeliverySlow': {'fanfare_delivery_latency_seconds_bucket{le="0.1"}': '0+3000x60'},
    'FanfareSlowClients': {'fanfare_delivery_closes_total{reason="slow"}': '0+600x60'},
    'FanfareConnectionsNearLimit': {'fanfare_edge_connections_limit': '1100x60'},
    'FanfareFdNearLimit': {'process_max_fds': '1200x60'},
    'FanfareAcceptErrors': {'fanfare_edge_accept_errors_total{reason="fd_limit"}': '0x57 3x3'},
    'FanfareCertificateExpires': {'fanfare_edge_tls_certificate_expiry_timestamp_seconds': '500000x60'},
    'FanfareSocketsRefused': {'fanfare_edge_sockets_refused_total': '0x57 3x3'},
    'FanfareReconnectStorm': {'fanfare_edge_requests_total{route="events",status="2xx"}': '0+600x56 60000+30000x4'},
    'FanfareRefusals': {'fanfare_edge_refusals_total{reason="connections_per_client"}': '0+6000x60'},
    'FanfareServerErrors': {'fanfare_edge_requests_total{route="publish",status="5xx"}': '0+600x60'},
    'FanfareFilterFailures': {'fanfare_delivery_filter_failures_total': '0x55 2x5'},
    'FanfareFeedBacklog': {'fanfare_delivery_feed_depth': '0x50 2000x10'},
    'FanfarePodImbalance': {'fanfare_edge_connections{instance="edge-2"}': '9000x60'},
    'FanfareDrainStuck': {'fanfare_edge_ready': '0x60', 'fanfare_edge_draining': '1x60'},
    'FanfareRestarting': {'process_start_time_seconds': '1000x40 2000x5 3000x5 4000x10'},
}


def full(series: str) -> str:
    name, _, labels = series.partition("{")
    labels = labels.rstrip("}")
    if "instance=" not in labels:
        labels = ",".join(filter(None, [labels, 'instance="edge-1"']))
    return f'{name}{{job="fanfare",{labels}}}'


def hour(name: str, changed: dict[str, str], firing: list[str]) -> dict:
    unknown = changed.keys() - HEALTHY.keys()
    assert not unknown, f"{name}: not a series of the healthy fleet: {unknown}"
    return {
        "name": name,
        "interval": "1m",
        "input_series": [
            {"series": full(s), "values": v} for s, v in {**HEALTHY, **changed}.items()
        ],
        "promql_expr_test": [{
            "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
            "eval_time": "1h",
            "exp_samples": [{"labels": f'{{alertname="{a}"}}', "value": 1} for a in firing],
        }],
    }


def main() -> int:
    alerts = set(re.findall(r"^\s+- alert: (\w+)$", RULES.read_text(), re.M))
    if alerts != FAULTS.keys():
        print(f"alerts and their tests differ: {sorted(alerts ^ FAULTS.keys())}", file=sys.stderr)
        return 1
    suite = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [hour("healthy", {}, [])]
        + [hour(alert, changed, [alert]) for alert, changed in FAULTS.items()],
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(suite, file)  # JSON is YAML
        file.flush()
        run = subprocess.run(["promtool", "test", "rules", file.name])
    if run.returncode == 0:
        print(f"{len(FAULTS)} alerts: each fires on its fault alone, none on a healthy fleet")
    return run.returncode


if __name__ == "__main__":
    sys.exit(main())
