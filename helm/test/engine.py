"""Renders the chart with Helm's own engine: the `helm` binary, or, where there is none, the Python
package helm-sdkpy, which carries Helm v4 as a library.

The library has no "template" call, so a throwaway API server on loopback lets `install` run to its
end: it answers discovery and sends every object back.
"""
import asyncio
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RELEASE, NAMESPACE = "rel", "edge"


class Refused(Exception):
    """The chart said no: schema, template or lint."""


def choose():
    """An engine, or None where there is no way to get one."""
    go_bin = pathlib.Path(os.environ.get("GOPATH", pathlib.Path.home() / "go")) / "bin" / "helm"
    binary = shutil.which("helm") or (str(go_bin) if go_bin.exists() else None)
    if binary and os.environ.get("FANFARE_HELM_ENGINE") != "library":
        return Binary(binary)
    try:
        import helm_sdkpy  # noqa: F401
    except ImportError:
        return None
    return Library()


class Binary:
    """The `helm` command."""

    def __init__(self, path: str):
        self.path = path
        self.name = f"helm ({path})"

    def _run(self, *arguments: str) -> str:
        run = subprocess.run([self.path, *arguments], capture_output=True, text=True)
        if run.returncode != 0:
            raise Refused(run.stderr + run.stdout)
        return run.stdout

    def lint(self, chart, values: dict) -> None:
        with values_file(values) as file:
            self._run("lint", str(chart), "--strict", "-f", file)

    def render(self, chart, values: dict) -> str:
        with values_file(values) as file:
            return self._run("template", RELEASE, str(chart), "-n", NAMESPACE, "-f", file)


class Library:
    """helm-sdkpy. One API server for the whole run."""

    name = "helm-sdkpy"

    def __init__(self):
        server = ThreadingHTTPServer(("127.0.0.1", 0), ApiServer)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        self.kubeconfig = tempfile.NamedTemporaryFile("w", suffix=".json")
        json.dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "t",
            "clusters": [{"name": "t", "cluster": {"server": address}}],
            "contexts": [{"name": "t", "context": {"cluster": "t", "user": "t", "namespace": NAMESPACE}}],
            "users": [{"name": "t", "user": {}}],
        }, self.kubeconfig)
        self.kubeconfig.flush()
        os.environ["HELM_DRIVER"] = "memory"
        self.releases = 0

    def _configuration(self):
        import helm_sdkpy
        return helm_sdkpy.Configuration(namespace=NAMESPACE, kubeconfig=self.kubeconfig.name)

    def lint(self, chart, values: dict) -> None:
        """Its lint takes no values: install, which `render` does, checks schema and templates."""
        self.render(chart, values)

    def render(self, chart, values: dict) -> str:
        import helm_sdkpy

        async def install():
            return await helm_sdkpy.Install(self._configuration()).run(
                RELEASE, str(chart), values=values, wait=False)

        try:
            release = asyncio.run(install())
        except helm_sdkpy.HelmError as error:
            raise Refused(str(error)) from error
        hooks = [str(hook.get("manifest", "")) for hook in release.get("hooks") or []]
        return "\n---\n".join([release["manifest"], *hooks])


class values_file:
    """A values file for as long as it is needed. JSON is YAML."""

    def __init__(self, values: dict):
        self.file = tempfile.NamedTemporaryFile("w", suffix=".yaml")
        json.dump(values, self.file, ensure_ascii=False)  # YAML has no surrogate escapes
        self.file.flush()

    def __enter__(self) -> str:
        return self.file.name

    def __exit__(self, *_):
        self.file.close()


KINDS = {
    "v1": ["Service", "ConfigMap", "Secret", "ServiceAccount", "Pod", "Namespace"],
    "apps/v1": ["Deployment"],
    "policy/v1": ["PodDisruptionBudget"],
    "autoscaling/v2": ["HorizontalPodAutoscaler"],
    "networking.k8s.io/v1": ["Ingress", "NetworkPolicy"],
    "monitoring.coreos.com/v1": ["ServiceMonitor", "PrometheusRule"],
    "gateway.networking.k8s.io/v1": ["HTTPRoute"],
}


def plural(kind: str) -> str:
    return kind.lower()[:-1] + "ies" if kind.endswith("y") else kind.lower() + ("es" if kind.endswith("s") else "s")


def resources(version: str) -> dict:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    return {
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
        "resources": [
            {"name": plural(k), "singularName": k.lower(), "namespaced": k != "Namespace", "kind": k, "verbs": verbs}
            for k in KINDS[version]
        ],
    }


class ApiServer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: dict):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/version":
            return self.answer(200, {"major": "1", "minor": "33", "gitVersion": "v1.33.0"})
        if path == "/api":
            return self.answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        if path == "/api/v1":
            return self.answer(200, resources("v1"))
        if path == "/apis":
            groups = [version.split("/") for version in KINDS if "/" in version]
            return self.answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": [
                {"name": name, "versions": [found], "preferredVersion": found}
                for name, version in groups
                for found in [{"groupVersion": f"{name}/{version}", "version": version}]
            ]})
        if path.removeprefix("/apis/") in KINDS:
            return self.answer(200, resources(path.removeprefix("/apis/")))
        return self.answer(404, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if body.startswith(b"k8s\0"):  # Helm's own record of the release
            return self.answer(201, {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "release", "namespace": NAMESPACE}})
        return self.answer(201, json.loads(body))

    do_PATCH = do_PUT = do_POST
