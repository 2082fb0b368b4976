"""Launch files: by Ray's own schema, by the way its autoscaler reads a Kubernetes cluster, by the shell's parser."""

import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from noiseweave.jobs import arguments

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "configs/cluster"
GROUPS = {"gpu-spot": "spot", "gpu": "on-demand"}


def load(name):
    return yaml.safe_load((FOLDER / name).read_text())


def check_types(types, head, workers):
    """No work on the head; GPU workers, some of them on spot, that the autoscaler brings when asked."""
    assert types[head]["resources"]["CPU"] == 0
    assert set(types) - {head} == set(GROUPS)
    for name, market in GROUPS.items():
        node = types[name]
        assert node["labels"] == {"market-type": market}
        assert node["resources"]["GPU"] == 1
        assert node["resources"]["CPU"] >= 2
        assert 0 == node["min_workers"] < node["max_workers"] <= workers


@pytest.mark.parametrize(
    ("name", "spot"),
    [
        ("aws.yaml", lambda node: node.get("InstanceMarketOptions") == {"MarketType": "spot"}),
        ("gcp.yaml", lambda node: node.get("scheduling", {}).get("provisioningModel") == "SPOT"),
    ],
)
def test_ray_up(name, spot):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(load(name))
    validate_config(config)
    types = config["available_node_types"]
    check_types(types, config["head_node_type"], config["max_workers"])
    assert [kind for kind in types if spot(types[kind]["node_config"])] == ["gpu-spot"]
    assert "-e RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    mounted = config["file_mounts"]
    assert mounted["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert (ROOT / mounted["~/requirements.txt"]).exists()


def test_ray_up_is_checked():
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(Exception, match="max_wrokers"):
        validate_config(prepare_config(load("aws.yaml") | {"max_wrokers": 1}))


def cluster_of(name):
    manifest = load(name)
    if manifest["kind"] == "RayCluster":
        return manifest, manifest["spec"]
    return manifest, manifest["spec"]["rayClusterSpec"]


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml"])
def test_kuberay(name):
    """As Ray's autoscaler in the head's pod reads it. The operator's own schema is not here."""
    from ray.autoscaler._private.kuberay import autoscaling_config

    manifest, spec = cluster_of(name)
    assert manifest["apiVersion"] == "ray.io/v1"
    read = {"metadata": {"name": "n", "namespace": "default"}, "spec": spec}
    config = autoscaling_config._derive_autoscaling_config_from_ray_cr(read)
    check_types(config["available_node_types"], config["head_node_type"], config["max_workers"])
    assert config["idle_timeout_minutes"] == 5
    assert spec["authOptions"]["mode"] == "token"
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": "noiseweave-store"}}]
        assert "KEY" not in str(container["env"])  # credentials come from the secret alone
    spot = next(group for group in groups if group.get("groupName") == "gpu-spot")
    keys = {taint["key"] for taint in spot["template"]["spec"]["tolerations"]}
    assert {"cloud.google.com/gke-spot", "karpenter.sh/capacity-type", "nvidia.com/gpu"} <= keys


def test_the_kuberay_jobs_command_is_one_of_ours(monkeypatch):
    monkeypatch.chdir(ROOT)
    spec = load("kuberay-job.yaml")["spec"]
    python, dash_m, package, job, *words = spec["entrypoint"].split()
    assert (python, dash_m, package) == ("python", "-m", "noiseweave")
    assert arguments.parse(job, words).output == "s3://BUCKET/augmented"
    assert yaml.safe_load(spec["runtimeEnvYAML"])["working_dir"].endswith(".zip")


def test_slurm_script_is_bash():
    script = FOLDER / "slurm.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text()
    assert "RAY_AUTH_MODE=token" in text
    assert "ray stop" not in text  # it would end every Ray of the host, other people's too


def test_the_nodes_have_what_the_package_needs():
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [line for line in lines if line and not line.startswith("#")] == [*needed, "s3fs>=2025.3"]
