"""Renders the chart in several ways with Helm itself (its SDK, out of a Python package) and holds every object to the
schemas of Kubernetes. `cargo xtask test --only chart` runs it: chart.py CHART"""

import sys

import helm_python
import kubernetes_validate
import yaml

KUBERNETES = "1.37"

# What Kubernetes itself has no schema for: objects of the Gateway API and of its inference extension. The fields that
# the chart sets of them.
OTHERS = {
    "HTTPRoute": {"parentRefs", "hostnames", "rules"},
    "InferencePool": {"selector", "targetPorts", "endpointPickerRef"},
}

EVERYTHING = {
    "replicas": 3,
    "image": {"repository": "registry.example/alti", "tag": "1.2", "pullSecrets": [{"name": "registry"}]},
    "models": ["owner/model:Q4_0", "true"],
    "settings": "[server]\nprice_per_hour = 0.08\n[engine]\nmax_running = 32\n",
    "env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}],
    "storage": {"className": "fast"},
    "metrics": {"annotations": False, "open": False},
    "route": {"hostnames": ["models.example"], "gateway": {"namespace": "gateways"}, "statefulPaths": []},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "models", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
}
WAYS = {
    "as it is": {},
    "everything set": EVERYTHING,
    "without a pool": {"inferencePool": {"enabled": False}},
    "without a route": {"route": {"enabled": False}, "podDisruptionBudget": {"enabled": False}},
}


def objects(chart, values):
    rendered = chart.render(values=values, name="release", namespace="models")
    return [document for text in rendered.values() for document in yaml.safe_load_all(text) if document]


def problem(document):
    fields = OTHERS.get(document["kind"])
    if fields is not None:
        unknown = set(document["spec"]) - fields
        return f"fields {sorted(unknown)}" if unknown else None
    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return str(error)
    return None


def main(path):
    report = helm_python.lint(path, strict=True)
    problems = [str(message) for message in report["messages"] if message["severity"] > 1] + report["errors"]
    count = 0
    with helm_python.Chart.load(path) as chart:
        for way, values in WAYS.items():
            for document in objects(chart, values):
                count += 1
                found = problem(document)
                if found:
                    problems.append(f"{way}: {document['kind']} {document['metadata']['name']}: {found}")
    for text in problems:
        print(text, file=sys.stderr)
    print(f"{count} objects of {len(WAYS)} renderings, by Helm {helm_python.helm_sdk_version()}")
    return 1 if problems or not count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
