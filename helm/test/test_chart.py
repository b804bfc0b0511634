#!/usr/bin/env python3
"""The chart: lints, renders every ci values file, validates against strict Kubernetes schemas, keeps
its promises, and refuses what cannot work, with a sentence.

    python3 helm/test/test_chart.py        (needs helm/test/requirements.txt; see scripts/test)
"""
import base64
import copy
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

import yaml

try:
    import tomllib
except ImportError:
    import tomli as tomllib

import engine
from engine import NAMESPACE, RELEASE, Refused

HERE = pathlib.Path(__file__).resolve().parent
CHART = HERE.parent / "fanfare"
ROOT = HERE.parent.parent
CI = {path.name: yaml.safe_load(path.read_text()) for path in sorted((CHART / "ci").glob("*.yaml"))}
OLDEST, NEWEST = "1.30", "1.37"
HELM = engine.choose()
BUILT = [path for path in (ROOT / "target/release/fanfare", ROOT / "target/debug/fanfare") if path.exists()]
# The newer one: an old build would judge by old keys.
BINARY = str(max(BUILT, key=lambda path: path.stat().st_mtime)) if BUILT else None

# Custom resources have no schema in Kubernetes: what their operators require, by hand.
CUSTOM = {
    "ServiceMonitor": ("monitoring.coreos.com/v1", {"selector", "endpoints"}),
    "PrometheusRule": ("monitoring.coreos.com/v1", {"groups"}),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", {"parentRefs", "rules"}),
}


def merged(base: dict, over: dict) -> dict:
    out = copy.deepcopy(base)
    for key, value in over.items():
        out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


LEAST = CI["anonymous-values.yaml"]
REDIS = CI["redis-values.yaml"]


class Objects:
    """What a set of values renders to."""

    def __init__(self, values: dict):
        self.all = [o for o in yaml.safe_load_all(HELM.render(CHART, values)) if o]

    def of(self, kind: str) -> list[dict]:
        return [o for o in self.all if o["kind"] == kind]

    def one(self, kind: str, name: str | None = None) -> dict:
        found = [o for o in self.of(kind) if name in (None, o["metadata"]["name"])]
        assert len(found) == 1, f"{len(found)} × {kind} {name or ''}"
        return found[0]

    def pod(self) -> dict:
        return self.one("Deployment")["spec"]["template"]["spec"]

    def container(self) -> dict:
        return self.pod()["containers"][0]

    def config(self) -> dict:
        maps = [o for o in self.of("ConfigMap") if "fanfare.toml" in o["data"]]
        return tomllib.loads(maps[0]["data"]["fanfare.toml"])


class Renders(unittest.TestCase):
    def test_every_variant_lints_and_is_valid_kubernetes(self):
        import kubernetes_validate
        for name, values in CI.items():
            HELM.lint(CHART, values)
            rendered = Objects(values)
            for object in rendered.all:
                kind = object["kind"]
                with self.subTest(variant=name, kind=kind, name=object["metadata"]["name"]):
                    if kind in CUSTOM:
                        version, required = CUSTOM[kind]
                        self.assertEqual(object["apiVersion"], version)
                        self.assertLessEqual(required, object["spec"].keys())
                        continue
                    for kubernetes in (OLDEST, NEWEST):
                        kubernetes_validate.validate(object, kubernetes, strict=True)

    def test_names_are_unique_and_in_the_release_namespace(self):
        for name, values in CI.items():
            objects = [o for o in Objects(values).all if not o["metadata"]["name"].endswith("-extra")]
            keys = [(o["kind"], o["metadata"]["name"]) for o in objects]
            self.assertEqual(len(keys), len(set(keys)), name)
            self.assertEqual({o["metadata"]["namespace"] for o in objects}, {NAMESPACE}, name)

    def test_the_strict_schemas_would_notice(self):
        import kubernetes_validate
        deployment = Objects(LEAST).one("Deployment")
        deployment["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(deployment, NEWEST, strict=True)


class ConfigFile(unittest.TestCase):
    def test_config_arrives_as_it_was_given(self):
        for name, values in CI.items():
            given = merged(yaml.safe_load((CHART / "values.yaml").read_text())["config"], values["config"])
            address = values.get("listenAddress", "0.0.0.0")
            given = merged(given, {"server": {"listen": f"{address}:8080"}, "admin": {"listen": f"{address}:8081"}})
            self.assertEqual(Objects(values).config(), given, name)

    def test_types_and_hard_strings_survive(self):
        hard = {
            "integer": 200000, "million": 5000000, "huge": 2**53, "negative": -3, "float": 0.25, "yes": True,
            "text": 'quote " backslash \\ tab \t newline \n <&> é 🎺 ', "looks_like_number": "007", "empty": "",
            "list": [1, 2], "nested": [[1], ["a"]], "mixed": [{"a": 1}, "b"], "none": [],
            "a key with space": 1, "table": {}, "deep": {"tables": [{"name": "x", "sub": {"k": 1}, "subs": [{"z": 2}]}, {"name": "y"}]},
        }
        config = Objects(merged(LEAST, {"config": {"server": hard}})).config()
        for key in ("listen", "drain_window", "drain_grace"):
            config["server"].pop(key)
        self.assertEqual(config["server"], hard)
        self.assertIs(type(config["server"]["million"]), int)

    @unittest.skipUnless(BINARY, "SKIPPED: no target/{release,debug}/fanfare yet (cargo build -p fanfare)")
    def test_the_binary_accepts_what_the_chart_writes(self):
        for name, values in CI.items():
            variables = {**values.get("secrets", {})}
            if "jwt" in values["config"]["auth"]:
                variables.setdefault("FANFARE_AUTH__JWT__SECRET", "not-a-real-secret-not-a-real-secret")
            maps = [o["data"] for o in Objects(values).of("ConfigMap")]
            with self.subTest(variant=name), tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
                file.write(next(data["fanfare.toml"] for data in maps if "fanfare.toml" in data))
                file.flush()
                run = subprocess.run([BINARY, "check-config", "--config", file.name],
                                     env=variables, capture_output=True, text=True)
                self.assertEqual(run.returncode, 0, run.stdout + run.stderr)

    def test_null_takes_a_key_out(self):
        config = Objects(merged(LEAST, {"config": {"server": {"drain_window": None}}})).config()
        self.assertNotIn("drain_window", config["server"])

    def test_secrets_are_in_the_secret_only(self):
        rendered = Objects(REDIS)
        secret = rendered.one("Secret")
        self.assertEqual(secret["stringData"], REDIS["secrets"])
        others = json.dumps([o for o in rendered.all if o["kind"] != "Secret"])
        for value in REDIS["secrets"].values():
            self.assertNotIn(value, others)
            self.assertNotIn(base64.b64encode(value.encode()).decode(), others)
        self.assertIn({"secretRef": {"name": secret["metadata"]["name"]}}, rendered.container()["envFrom"])

    def test_an_existing_secret_is_read_as_environment(self):
        rendered = Objects(CI["nats-values.yaml"])
        self.assertIn({"secretRef": {"name": "fanfare-credentials"}}, rendered.container()["envFrom"])
        self.assertEqual(rendered.of("Secret"), [])

    def test_a_changed_config_or_secret_changes_the_pods(self):
        def annotations(values):
            return Objects(values).one("Deployment")["spec"]["template"]["metadata"]["annotations"]
        before = annotations(REDIS)
        self.assertEqual(before, annotations(copy.deepcopy(REDIS)))
        config = annotations(merged(REDIS, {"config": {"limits": {"connections": 7}}}))
        secret = annotations(merged(REDIS, {"secrets": {"FANFARE_AUTH__JWT__SECRET": "another"}}))
        self.assertNotEqual(before["checksum/config"], config["checksum/config"])
        self.assertEqual(before["checksum/secret"], config["checksum/secret"])
        self.assertNotEqual(before["checksum/secret"], secret["checksum/secret"])


class Pods(unittest.TestCase):
    def test_ports_and_probes(self):
        container = Objects(LEAST).container()
        self.assertEqual({p["name"]: p["containerPort"] for p in container["ports"]}, {"http": 8080, "admin": 8081})
        probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
        self.assertEqual(probes, {
            "startup": {"path": "/healthz", "port": "admin"},
            "readiness": {"path": "/readyz", "port": "admin"},
            "liveness": {"path": "/healthz", "port": "admin"},
        })
        self.assertEqual(container["args"], ["serve", "--config", "/etc/fanfare/fanfare.toml"])
        self.assertEqual(container["volumeMounts"][0]["mountPath"], "/etc/fanfare")

    def test_restricted_pod_security_in_every_pod(self):
        rendered = Objects(LEAST)
        for pod in (rendered.pod(), rendered.one("Pod")["spec"]):
            self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertTrue(pod["securityContext"]["runAsNonRoot"])
            self.assertIs(pod["automountServiceAccountToken"], False)
            self.assertIs(pod["enableServiceLinks"], False)
            for key in ("hostNetwork", "hostPID", "hostIPC"):
                self.assertNotIn(key, pod)
            for container in pod["containers"]:
                security = container["securityContext"]
                self.assertIs(security["allowPrivilegeEscalation"], False)
                self.assertIs(security["readOnlyRootFilesystem"], True)
                self.assertEqual(security["capabilities"], {"drop": ["ALL"]})

    def test_the_pod_outlives_its_drain(self):
        def pod(values):
            return Objects(merged(LEAST, values)).pod()
        self.assertEqual(pod({})["terminationGracePeriodSeconds"], 5 + (20 + 5) + 10)
        for window, seconds in {"90s": 90, "1m 30s": 90, "1m30s": 90, "500ms": 1, "2min": 120, "1h": 3600}.items():
            found = pod({"config": {"server": {"drain_window": window}}})
            self.assertEqual(found["terminationGracePeriodSeconds"], 5 + (seconds + 5) + 10, window)
        by_default = {"server": {"drain_window": None, "drain_grace": None}}
        self.assertEqual(pod({"config": by_default})["terminationGracePeriodSeconds"], 5 + (10 + 5) + 10)
        delayed = {"server": {"drain_delay": "3s", "drain_grace": "2s"}}
        self.assertEqual(pod({"config": delayed})["terminationGracePeriodSeconds"], 5 + (3 + 20 + 2) + 10)
        own = pod({"termination": {"gracePeriodSeconds": 77}})
        self.assertEqual(own["terminationGracePeriodSeconds"], 77)
        self.assertEqual(own["containers"][0]["lifecycle"], {"preStop": {"sleep": {"seconds": 5}}})
        self.assertIn("# 5 (preStop) + 25 (drain: delay, window, grace) + 10 (margin)", HELM.render(CHART, LEAST))

    def test_replacement_never_halves_the_events(self):
        def strategy(values):
            return Objects(values).one("Deployment")["spec"]["strategy"]
        self.assertEqual(strategy(LEAST), {"type": "Recreate"})
        self.assertEqual(strategy(REDIS), {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}})
        self.assertEqual(strategy(CI["everything-values.yaml"])["rollingUpdate"]["maxSurge"], "25%")

    def test_pods_spread_over_nodes(self):
        spread = Objects(REDIS).pod()["topologySpreadConstraints"]
        self.assertEqual(spread[0]["labelSelector"]["matchLabels"]["app.kubernetes.io/instance"], RELEASE)
        own = Objects(CI["everything-values.yaml"]).pod()["topologySpreadConstraints"]
        self.assertEqual(own[0]["labelSelector"]["matchLabels"], {"app.kubernetes.io/instance": RELEASE})


class Reach(unittest.TestCase):
    def test_the_admin_port_is_apart_from_the_public_one(self):
        for name, values in CI.items():
            rendered = Objects(values)
            public, admin = sorted(rendered.of("Service"), key=lambda s: s["metadata"]["name"].endswith("-admin"))
            self.assertEqual([p["targetPort"] for p in public["spec"]["ports"]], ["http"], name)
            self.assertEqual([p["targetPort"] for p in admin["spec"]["ports"]], ["admin"], name)
            self.assertEqual(admin["spec"]["type"], "ClusterIP", name)
            for kind in ("Ingress", "HTTPRoute"):
                self.assertNotIn(admin["metadata"]["name"], json.dumps(rendered.of(kind)), name)

    def test_selectors_find_the_pods_and_not_the_test_pod(self):
        rendered = Objects(CI["everything-values.yaml"])
        pods = rendered.one("Deployment")["spec"]["template"]["metadata"]["labels"]
        probe = rendered.one("Pod")["metadata"]["labels"]
        selectors = [o["spec"]["selector"] for o in rendered.of("Service")]
        selectors += [rendered.one(kind)["spec"][key]["matchLabels"] for kind, key in
                      (("Deployment", "selector"), ("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector"))]
        self.assertEqual(len(selectors), 5)
        for selector in selectors:
            self.assertLessEqual(selector.items(), pods.items())
            self.assertFalse(selector.items() <= probe.items())

    def test_the_budget_comes_with_the_second_pod(self):
        self.assertEqual(Objects(LEAST).of("PodDisruptionBudget"), [])
        self.assertEqual(Objects(REDIS).one("PodDisruptionBudget")["spec"]["maxUnavailable"], 1)
        Objects(CI["nats-values.yaml"]).one("PodDisruptionBudget")

    def test_scaling_by_connections(self):
        rendered = Objects(CI["nats-values.yaml"])
        first = rendered.one("HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]
        self.assertEqual(first["metric"]["name"], "fanfare_edge_connections")
        self.assertEqual(first["target"]["averageValue"], "20000")
        self.assertEqual(rendered.one("Deployment")["spec"]["replicas"], 2)

    def test_what_is_off_is_not_there(self):
        kinds = {o["kind"] for o in Objects(LEAST).all}
        self.assertEqual(kinds, {"Deployment", "Service", "ConfigMap", "ServiceAccount", "Pod"})


class Monitoring(unittest.TestCase):
    def test_the_monitor_finds_the_admin_service(self):
        rendered = Objects(REDIS)
        spec = rendered.one("ServiceMonitor")["spec"]
        admin = rendered.one("Service", f"{RELEASE}-fanfare-admin")
        self.assertLessEqual(spec["selector"]["matchLabels"].items(), admin["metadata"]["labels"].items())
        public = rendered.one("Service", f"{RELEASE}-fanfare")
        self.assertFalse(spec["selector"]["matchLabels"].items() <= public["metadata"]["labels"].items())
        self.assertEqual(spec["endpoints"][0]["port"], admin["spec"]["ports"][0]["name"])
        self.assertIn({"targetLabel": "job", "replacement": "fanfare"}, spec["endpoints"][0]["relabelings"])

    def test_rules_are_the_shipped_ones(self):
        shipped = yaml.safe_load((ROOT / "monitoring/prometheus/alerts.yaml").read_text())["groups"]
        everything = Objects(CI["everything-values.yaml"]).one("PrometheusRule")["spec"]["groups"]
        self.assertEqual(everything[:-1], shipped)
        self.assertEqual(everything[-1]["rules"], [{"alert": "Mine", "expr": "vector(1)"}])
        fewer = Objects(REDIS).one("PrometheusRule")["spec"]["groups"][0]["rules"]
        self.assertEqual(fewer, [r for r in shipped[0]["rules"] if r["alert"] != "FanfarePodImbalance"])

    def test_the_dashboard_is_the_shipped_one(self):
        map = Objects(REDIS).one("ConfigMap", f"{RELEASE}-fanfare-dashboards")
        self.assertEqual(map["metadata"]["labels"]["grafana_dashboard"], "1")
        for name, text in map["data"].items():
            shipped = (ROOT / "monitoring/grafana/dashboards" / name).read_text()
            self.assertEqual(json.loads(text), json.loads(shipped))
        self.assertLess(sum(map["data"][n].__len__() for n in map["data"]), 1_000_000, "a ConfigMap holds 1 MiB")

    def test_one_copy_two_doors(self):
        for link in (ROOT / "monitoring/prometheus/alerts.yaml", ROOT / "monitoring/grafana/dashboards/fanfare-overview.json"):
            self.assertTrue(link.is_symlink(), link)
            self.assertTrue(link.resolve().is_relative_to(CHART / "files"), link)


class Refusals(unittest.TestCase):
    def refused(self, values: dict, *words: str):
        with self.assertRaises(Refused) as caught:
            HELM.render(CHART, values)
        for word in words:
            self.assertIn(word, str(caught.exception))

    def test_no_decision_on_who_may_do_what(self):
        self.refused({}, "config.auth is missing", "config.auth.anonymous", "FANFARE_AUTH__JWT__SECRET")
        self.refused({"existingSecret": "mine"}, "config.auth is missing")

    def test_auth_by_the_environment_is_a_decision(self):
        Objects({"secrets": {"FANFARE_AUTH__JWT__SECRET": "x"}})
        Objects({"env": [{"name": "FANFARE_AUTH__JWT__PUBLIC_KEY", "value": "x"}]})

    def test_many_pods_on_the_memory_broker(self):
        for values in ({"replicas": 2}, {"autoscaling": {"enabled": True}},
                       {"replicas": 2, "config": {"broker": {"kind": None}}}):
            self.refused(merged(LEAST, values), 'config.broker.kind is "memory"', "redis", "nats", "replicas: 1")
        self.refused(merged(REDIS, {"env": [{"name": "FANFARE_BROKER__KIND", "value": "memory"}]}), 'config.broker.kind is "memory"')
        Objects(merged(LEAST, {"replicas": 2, "env": [{"name": "FANFARE_BROKER__KIND", "value": "redis"}]}))

    def test_secrets_in_the_config_map(self):
        self.refused(merged(LEAST, {"config": {"auth": {"jwt": {"secret": "s"}}}}), "ConfigMap", "FANFARE_AUTH__JWT__SECRET")
        for url in ("redis://:pw@redis", "redis://user:pw@redis:6379/0", "rediss://u:p%40@h"):
            self.refused(merged(LEAST, {"config": {"broker": {"redis": {"url": url}}}}), "ConfigMap", "FANFARE_BROKER__REDIS__URL")
        self.refused(merged(LEAST, {"config": {"broker": {"nats": {"url": ["nats://a:b@n"]}}}}), "ConfigMap")
        Objects(merged(LEAST, {"config": {"broker": {"redis": {"url": "redis://redis:6379"}}}}))

    def test_listeners_are_the_charts(self):
        self.refused(merged(LEAST, {"config": {"server": {"listen": "0.0.0.0:1"}}}), "config.server.listen", "listenAddress")
        self.refused(merged(LEAST, {"config": {"admin": {"listen": "0.0.0.0:1"}}}), "config.admin.listen")

    def test_times_that_do_not_fit(self):
        self.refused(merged(LEAST, {"config": {"server": {"drain_window": "soon"}}}), "drain_window", "soon")
        self.refused(merged(LEAST, {"config": {"server": {"drain_window": 20}}}), "drain_window")
        self.refused(merged(LEAST, {"termination": {"gracePeriodSeconds": 30}}), "gracePeriodSeconds is 30")

    def test_switches_without_what_they_need(self):
        self.refused(merged(LEAST, {"ingress": {"enabled": True}}), "ingress.hosts")
        self.refused(merged(LEAST, {"httpRoute": {"enabled": True}}), "httpRoute.parentRefs")
        scaling = merged(CI["nats-values.yaml"], {"autoscaling": {"targetConnections": 0, "targetCPUUtilizationPercentage": 0}})
        self.refused(scaling, "needs a target")
        self.refused(merged(CI["nats-values.yaml"], {"autoscaling": {"minReplicas": 9}}), "minReplicas")

    def test_the_schema_knows_its_blocks(self):
        bad = [
            {"replica": 3}, {"replicas": "3"}, {"replicas": -1}, {"image": {"repo": "x"}}, {"image": {"pullPolicy": "Sometimes"}},
            {"image": {"digest": "latest"}}, {"service": {"type": "ExternalName"}}, {"service": {"port": 0}}, {"service": {"prot": 80}},
            {"ingress": {"host": "x"}}, {"ingress": {"hosts": [{"paths": []}]}}, {"httpRoute": {"enable": True}},
            {"probes": {"readiness": {"period": 5}}}, {"autoscaling": {"max": 3}}, {"metrics": {"enabled": True}},
            {"metrics": {"serviceMonitor": {"interval": "often"}}}, {"secrets": {"PASSWORD": "x"}}, {"secrets": {"FANFARE_X": 1}},
            {"networkPolicy": {"ingress": []}}, {"termination": {"marginSeconds": 0}}, {"config": {"retention": {}}},
            {"config": "server = {}"}, {"listenAddress": "127.0.0.1"}, {"podLabels": {"a": 1}}, {"env": [{"value": "x"}]},
        ]
        for values in bad:
            with self.subTest(values=values):
                self.refused(merged(LEAST, values), "values don't meet the specifications of the schema")


class Docs(unittest.TestCase):
    def test_the_readme_knows_every_top_level_value(self):
        readme = (CHART / "README.md").read_text()
        for key in yaml.safe_load((CHART / "values.yaml").read_text()):
            self.assertRegex(readme, rf"`{key}[`.]", f"README.md does not mention {key}")

    def test_the_schema_knows_every_value_and_no_other(self):
        schema = json.loads((CHART / "values.schema.json").read_text())

        def same(values: dict, schema: dict, path: str):
            if schema.get("additionalProperties") is not False or not values:
                return
            known = schema["properties"].keys() - {"global"}
            self.assertEqual(values.keys(), known, path or "values")
            for key in values:
                if isinstance(values[key], dict):
                    same(values[key], schema["properties"][key], f"{path}.{key}".lstrip("."))

        same(yaml.safe_load((CHART / "values.yaml").read_text()), schema, "")

    def test_chart_and_workspace_have_one_version(self):
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
        self.assertEqual(chart["appVersion"], workspace)


if __name__ == "__main__":
    if HELM is None:
        sys.exit("no helm: install it (go install helm.sh/helm/v4/cmd/helm@latest) or the Python package helm-sdkpy")
    print(f"engine: {HELM.name}")
    unittest.main(verbosity=1)
