"""The files in deploy/ and the image: what can be checked without a cluster, a cloud or a container engine."""

import base64
import fnmatch
import importlib.metadata
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import ROOT, picture, started, upload

from web.settings import DEFAULTS

DEPLOY = ROOT / "deploy"
BOUNDARY = "----formdata-1234"


# The image


def ignored_by_docker(path: str) -> bool:
    """Whether .dockerignore leaves a file out: the last line that matches it, or a folder above it, decides."""
    ignored = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!").removeprefix("**/")
            parts = path.split("/")
            starts = range(len(parts)) if "**/" in line else (0,)
            places = ["/".join(parts[start:end]) for start in starts for end in range(start + 1, len(parts) + 1)]
            if any(fnmatch.fnmatchcase(place, pattern) and place.count("/") == pattern.count("/") for place in places):
                ignored = not line.startswith("!")
    return ignored


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """A folder with what the image holds, in which nothing can be written."""
    folder = tmp_path_factory.mktemp("image")
    for place, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = (Path(place) / name).relative_to(ROOT)
            if not ignored_by_docker(path.as_posix()):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, folder / path)
    for place, _, files in os.walk(folder):
        for name in files:
            (Path(place) / name).chmod(0o444)
        Path(place).chmod(0o555)
    yield folder
    for place, _, _ in os.walk(folder):
        Path(place).chmod(0o755)


def test_the_image_holds_only_what_serves(image_folder):
    files = {path.relative_to(image_folder).as_posix() for path in image_folder.rglob("*") if path.is_file()}
    assert {"app.py", "captioning/generator.py", "web/api.py", "templates/page.html", "static/page.js"} <= files
    assert "translations/de/LC_MESSAGES/messages.mo" in files
    assert {name for name in files if name.startswith("artifacts/")} == {
        f"artifacts/{name}"
        for name in ("config.pkl", "tokenizer.pkl", "encoder.tflite", "search.tar.xz", "manifest.json")
    }
    assert not [name for name in files if re.search(r"network/|training/|tests/|\.po$|\.ipynb$|\.git|\.pyc$", name)]


@pytest.mark.slow
def test_the_image_serves_without_rights(image_folder, tmp_path):
    """Start a server process with the image's command and files, with another user's rights if possible."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    command = json.loads(re.search(r"^CMD (.*)", dockerfile, re.MULTILINE)[1])
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOST": "127.0.0.1", "PORT": "0",
        "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    if reader_is_possible(image_folder):
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs", *command]
    with started(command, cwd=image_folder, env=environment) as server:
        address = "127.0.0.1", int(server.stdout.readline().rsplit(":", 1)[1])
        assert upload(address) == 200
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0


def reader_is_possible(folder: Path) -> bool:
    """Whether the user nobody may run this Python and read the folder."""
    if os.getuid() or not shutil.which("setpriv"):
        return False
    probe = "import flask, os, sys; os.listdir(sys.argv[1])"
    for path in (folder, *folder.parents[:2]):  # pytest's folders are for their owner only
        path.chmod(path.stat().st_mode | 0o055)
    shell = [
        "sh",
        "-c",
        'exec "$0" "$@"',
        sys.executable,
        "-c",
        probe,
        str(folder),
    ]  # setpriv itself still has all rights
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *shell]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_compose_limits_what_the_container_may_do():
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["captioner"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["mem_limit"] == "4g"
    assert int(service["stop_grace_period"].removesuffix("s")) == DEFAULTS["REQUEST_TIMEOUT"] + 20


# Hugging Face


def test_the_space_has_its_port():
    header = yaml.safe_load((DEPLOY / "huggingface" / "README.md").read_text().split("---")[1])
    assert header["sdk"] == "docker"
    assert header["app_port"] == 7860


# Lambda


@pytest.fixture(scope="module")
def lambda_handler():
    pytest.importorskip("apig_wsgi", reason="apig-wsgi is not installed")
    return runpy.run_path(str(DEPLOY / "lambda" / "handler.py"))["handler"]


def form_with_photo() -> str:
    """A multipart body in Base64."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="photo.png"\r\n'
    body = f"{head}Content-Type: image/png\r\n\r\n".encode() + picture() + f"\r\n--{BOUNDARY}--\r\n".encode()
    return base64.b64encode(body).decode()


def api_gateway(method: str, path: str, body: str | None = None, query: str = "") -> dict:
    """An event of an HTTP API or a function URL (payload format 2.0)."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": query,
        "headers": {
            "accept": "*/*",
            "content-type": f"multipart/form-data; boundary={BOUNDARY}",
            "host": "abc123.execute-api.eu-central-1.amazonaws.com",
            "x-forwarded-for": "192.0.2.1",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
        },
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "abc123",
            "domainName": "abc123.execute-api.eu-central-1.amazonaws.com",
            "http": {
                "method": method,
                "path": path,
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "test",
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "time": "12/Mar/2026:19:03:58 +0000",
            "timeEpoch": 1773342238000,
        },
        "body": body,
        "isBase64Encoded": body is not None,
    }


def load_balancer(method: str, path: str, body: str = "") -> dict:
    """An event of an Application Load Balancer."""
    target = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/captioner/49e9d65c45c6791a"
    return {
        "requestContext": {"elb": {"targetGroupArn": target}},
        "httpMethod": method,
        "path": path,
        "queryStringParameters": {"alternatives": "2"},
        "headers": {
            "accept": "*/*",
            "content-type": f"multipart/form-data; boundary={BOUNDARY}",
            "host": "captioner-123.eu-central-1.elb.amazonaws.com",
            "x-amzn-trace-id": "Root=1-5c536348-3d683b8b04734faae651f476",
            "x-forwarded-for": "192.0.2.1",
            "x-forwarded-port": "443",
            "x-forwarded-proto": "https",
        },
        "body": body,
        "isBase64Encoded": True,
    }


def test_lambda_captions_a_photo_from_an_api_gateway(lambda_handler, generator):
    expected = generator.caption(picture(), beam_width=3, alternatives=3)
    answer = lambda_handler(api_gateway("POST", "/model/predict", form_with_photo()), None)
    assert answer["statusCode"] == 200
    assert answer["headers"]["content-type"] == "application/json"
    assert json.loads(answer["body"])["predictions"][0]["caption"] == expected.text
    answer = lambda_handler(api_gateway("POST", "/api/captions", form_with_photo(), "alternatives=2"), None)
    assert len(json.loads(answer["body"])["photos"][0]["alternatives"]) == 2


def test_lambda_captions_a_photo_from_a_load_balancer(lambda_handler, generator):
    answer = lambda_handler(load_balancer("POST", "/api/captions", form_with_photo()), None)
    assert answer["statusCode"] == 200
    (found,) = json.loads(answer["body"])["photos"]
    assert found["caption"] == generator.caption(picture(), beam_width=3, alternatives=3).text
    assert len(found["alternatives"]) == 2


def test_lambda_serves_the_page_and_its_pictures(lambda_handler):
    page = lambda_handler(api_gateway("GET", "/"), None)
    assert page["statusCode"] == 200
    assert "<form" in page["body"]
    sample = lambda_handler(api_gateway("GET", "/static/samples/dog.webp"), None)
    assert sample["isBase64Encoded"] is True
    assert base64.b64decode(sample["body"]) == (ROOT / "static" / "samples" / "dog.webp").read_bytes()


def test_lambda_answers_errors_as_json(lambda_handler):
    answer = lambda_handler(api_gateway("POST", "/model/predict", base64.b64encode(b"no form").decode()), None)
    assert answer["statusCode"] == 400
    assert json.loads(answer["body"])["status"] == "error"


# Kubernetes


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict]:
    """The Kubernetes objects by kind."""
    objects = yaml.safe_load_all((DEPLOY / "kubernetes" / "captioner.yaml").read_text())
    return {manifest["kind"]: manifest for manifest in objects}


def test_manifests_follow_the_schemas_of_kubernetes(manifests):
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    assert set(manifests) == {
        "Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy",
    }  # fmt: skip
    for manifest in manifests.values():
        validator.validate(manifest, validator.latest_version(), strict=True)


def test_manifests_fit_each_other(manifests):
    pod = manifests["Deployment"]["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    for selector in (
        manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ):
        assert selector.items() <= pod["metadata"]["labels"].items()
    assert (
        manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
        == manifests["Deployment"]["metadata"]["name"]
    )
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert environment["CAPTIONER_METRICS_LISTEN"].endswith(f":{ports['metrics']}")
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])
    probed = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert probed == {"/ready", "/health"}


def test_the_scaling_metric_exists(manifests, monkeypatch):
    (metric,) = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    from web.metrics import Metrics

    assert metric["pods"]["metric"]["name"] in Metrics().show().get_data(as_text=True)


# Ray


def test_the_ray_job_of_kuberay():
    """Its pods follow the schema of Kubernetes, its command line that of `captioning.bulk`."""
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    job = yaml.safe_load((DEPLOY / "ray" / "kuberay.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, "spec": group["template"]["spec"]}
        validator.validate(pod, validator.latest_version(), strict=True)
    ray = pytest.importorskip("ray", reason="needs requirements-cluster.txt")
    assert cluster["rayVersion"].rsplit(".", 1)[0] == ray.__version__.rsplit(".", 1)[0]
    command = job["spec"]["entrypoint"].split()
    assert command[:3] == ["/app/.venv/bin/python", "-m", "captioning.bulk"]
    result = subprocess.run([sys.executable, *command[1:], "--help"], cwd=ROOT, capture_output=True)
    assert result.returncode == 0


def test_the_ray_cluster_of_plain_machines():
    pytest.importorskip("ray", reason="needs requirements-cluster.txt")
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load((DEPLOY / "ray" / "machines.yaml").read_text())))


def test_the_image_for_ray_takes_jobs():
    """KubeRay submits them over HTTP, for which Ray needs packages that `ray[data]` does not bring."""
    pytest.importorskip("ray", reason="needs requirements-cluster.txt")
    extra = [line for line in importlib.metadata.requires("ray") if line.startswith("aiohttp") and "default" in line]
    locked = (DEPLOY / "ray" / "requirements.lock").read_text()
    assert extra and re.search(r"^aiohttp==", locked, re.MULTILINE)
    assert re.search(r"^ray\[.*default.*\]==(\S+)", locked, re.MULTILINE)[1] == importlib.metadata.version("ray")


# Documentation


def test_every_setting_is_documented():
    documented = re.findall(r"^\| `CAPTIONER_(\w+)`", (ROOT / "docs" / "deploy.md").read_text(), re.MULTILINE)
    assert sorted(documented) == sorted(DEFAULTS)
