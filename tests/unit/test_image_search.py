"""The images that deployments need: what is found in texts, and what is told."""

from __future__ import annotations

import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dockerpush.errors import Cancelled, InvalidJSON
from dockerpush.sync import image_search
from dockerpush.sync.image_search import Findings, find_images, is_yaml_text
from dockerpush.sync.yaml_lines import DEEPEST

DIGEST = "sha256:" + "ab" * 32


@pytest.fixture(params=["PyYAML", "own rules"])
def reader(request, monkeypatch):
    """With PyYAML, and as if it were not installed."""
    if request.param == "PyYAML":
        pytest.importorskip("yaml")
    else:
        monkeypatch.setitem(sys.modules, "yaml", None)
    return request.param


def found(text: str, name: str = "x.yaml", **variables: str) -> Findings:
    return find_images(textwrap.dedent(text), name, variables)


def names(findings: Findings) -> list[str]:
    """The images as people write them, without Docker Hub's name, sorted."""
    texts = [str(one.image) for one in findings.images]
    return sorted(text.replace("docker.io/library/", "") for text in texts)


FORMS = {
    "containers of a pod": (
        """
        apiVersion: v1
        kind: Pod
        spec:
          initContainers:
          - name: first
            image: busybox:1
          containers:
          - image: "nginx:1.25"   # the web server
            name: web
          - {name: side, image: 'quay.io/a/b:2'}
          ephemeralContainers:
            - name: debug
              image: debian
        """,
        ["busybox:1", "nginx:1.25", "quay.io/a/b:2", "debian:latest"],
    ),
    "several documents, as Helm writes them": (
        """
        ---
        # Source: chart/templates/a.yaml
        kind: Deployment
        spec: {template: {spec: {containers: [{image: "a:1"}]}}}
        ---
        # Source: chart/templates/empty.yaml
        ---
        kind: CronJob
        spec:
          jobTemplate:
            spec:
              template:
                spec:
                  containers:
                    - image: b:2
        """,
        ["a:1", "b:2"],
    ),
    "a digest, a port, a tag that looks like a number": (
        f"""
        - image: host:5000/a@{DIGEST}
        - image: host:5000/b:1@{DIGEST}
        - {{repository: c, tag: 1.10}}
        """,
        [f"host:5000/a@{DIGEST}", f"host:5000/b:1@{DIGEST}", "c:1.10"],
    ),
    "parts of an image, as in values of Helm": (
        f"""
        image:
          registry: registry.k8s.io
          repository: ingress/controller
          tag: v1
        other:
          image: {{repository: quay.io/x, tag: "2", digest: ""}}
        third: {{registry: ghcr.io, image: y, tag: v3, digest: {DIGEST}}}
        hex: {{repository: z, digest: {"ab" * 32}}}
        sha: {{repository: w, tag: "{DIGEST}"}}
        """,
        [
            "registry.k8s.io/ingress/controller:v1",
            "quay.io/x:2",
            f"ghcr.io/y:v3@{DIGEST}",
            f"z@{DIGEST}",
            f"w@{DIGEST}",
        ],
    ),
    "nested keys of custom resources": (
        """
        kind: ClusterPolicy
        spec:
          driver: {repository: nvcr.io/nvidia, image: driver, version: "525"}
          sidecarImage: quay.io/side:1
          proxy: {proxy-image: gcr.io/p}
          image: {name: quay.io/n, tag: "2"}
          backgroundImage: blue
        """,
        [
            "nvcr.io/nvidia/driver:525",
            "quay.io/n:2",
            "quay.io/side:1",
            "gcr.io/p:latest",
        ],
    ),
    "variables and arguments of containers": (
        f"""
        env:
        - {{name: RELATED_IMAGE_X, value: "quay.io/x@{DIGEST}"}}
        - {{name: PATH, value: "quay.io/no:1"}}
        args: [--side-image=ghcr.io/s:1, "--taint=node.kubernetes.io/ready:NoSchedule"]
        """,
        [f"quay.io/x@{DIGEST}", "ghcr.io/s:1"],
    ),
    "a manifest in a text of a ConfigMap": (
        """
        data:
          pod.yaml: |
            containers:
            - image: inner:1
          notes: |
            image
            of nothing: here
        description: |
          image: not/this:1
        """,
        ["inner:1"],
    ),
    "a volume of an image, but not of Ceph": (
        """
        volumes:
        - image: {reference: "quay.io/data:1", pullPolicy: Always}
        - rbd: {image: disk}
        """,
        ["quay.io/data:1"],
    ),
    "Kustomize": (
        f"""
        images:
        - name: postgres
          newName: mine/postgres
          newTag: "12"
        - {{name: redis, newTag: "7"}}
        - {{name: nginx, digest: {DIGEST}}}
        """,
        ["docker.io/mine/postgres:12", "redis:7", f"nginx@{DIGEST}"],
    ),
    "lists of images of other tools": (
        """
        images:
        - ghcr.io/a:1
        - name: quay.io/b:2
        relatedImages:
        - {name: c, image: "quay.io/c:3"}
        """,
        ["ghcr.io/a:1", "quay.io/b:2", "quay.io/c:3"],
    ),
    "Compose, with defaults for variables": (
        """
        services:
          web:
            image: "${REGISTRY:-docker.io}/team/web:${TAG-1}"
          db: {image: "postgres:$VERSION"}
          own: {build: .}
          nested: {image: "${A:-${B:-x/y:1}}"}
        """,
        ["docker.io/team/web:1", "postgres:12", "docker.io/x/y:1"],
    ),
    "aliases and merged keys": (
        f"""
        x-image: &image quay.io/a:1
        base: &base {{repository: quay.io/b, tag: "1"}}
        one: {{image: *image}}
        two:
          <<: *base
          tag: "2"
        three: {{<<: [*base], digest: "{DIGEST}"}}
        """,
        [
            *("quay.io/a:1", "quay.io/b:1", "quay.io/a:1", "quay.io/b:2"),
            f"quay.io/b:1@{DIGEST}",
        ],
    ),
    "JSON": (
        '{"items": [{"containers": [{"image": "a:1"},\n{"image":"b\\u003a2"}]}]}',
        ["a:1", "b:2"],
    ),
    "a schema, which names no images": (
        """
        properties:
          image: {type: string, description: "the image"}
          repository: {type: string}
          tag: {type: string}
        """,
        [],
    ),
    "nothing where an image may be": (
        """
        a: {image: null}
        b: {image: ""}
        c:
          image:
        d: {repository: "https://charts.example.com", version: "1"}
        """,
        [],
    ),
}


@pytest.mark.parametrize(("text", "wanted"), FORMS.values(), ids=FORMS)
def test_images_are_found_in_every_form(text, wanted, reader):
    findings = found(text, VERSION="12")
    assert names(findings) == sorted(wanted)
    assert findings.problems == []


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a:\n  image: '{{ .Values.image }}'", 2, "helm template"),
        ("image: '{{ .x }}/app:1'", 1, "is a template"),
        ("image: $(params.image)", 1, "is a template"),
        ("image: UPPER:1", 1, "not an image reference"),
        ("image: a b", 1, "not an image reference"),
        ("image: x/y:${NONE}", 1, "NONE is not set"),
        ("sideImage: ${NONE}/y:1", 1, "NONE is not set"),
        ("image:\n  repository: a/b\n  tag: ''", 2, "neither a tag nor a digest"),
        ("x: {repository: a/b, tag: null}", 1, "neither a tag nor a digest"),
        ("images:\n- name: a\n  newName: b/c", 2, "kustomize build"),
        ("image: a:1\nimage: b:1", 2, "twice"),
    ],
)
def test_what_is_skipped_is_reported_with_its_line(text, line, words, reader):
    findings = found(text)
    (problem,) = findings.problems
    assert problem.line == line and words in problem.text
    assert "\n" not in problem.text


def test_lines_are_those_of_the_file(reader):
    findings = found("# one\n\na:\n- image: x:1\n---\nimage: 'y:1'\n")
    assert [one.line for one in findings.images] == [4, 6]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("nginx\n\n# why\nteam/app:1  # this\n- redis:7\n", 3),
        ("quay.io/a:1 registry.test/b:1\n", 2),
        ("See quay.io/a/b:1, and (ghcr.io/c/d:2) or x/y:3.\n", 3),
        ("IMAGE=ghcr.io/x/y:2 run\n", 1),
        ('FROM="quay.io/a:1"\nENV x y\n', 1),
        ("at 12:30 see src/main.py:12 and https://a.test/b:1 or /usr/bin:x\n", 0),
        ("Done.\n", 0),
    ],
)
def test_plain_text(text, wanted):
    assert len(found(text, "notes.txt").images) == wanted


@pytest.mark.parametrize(
    ("text", "name", "is_yaml"),
    [
        ("nginx:1.2\n", "-", False),
        ("a.test/x:1 b.test/y:1\n", "list", False),
        ("# c\n\nkind: Pod\n", "-", True),
        ("---\nx", "-", True),
        ("- name: x\n", "-", True),
        ("- x:1\n", "-", False),
        ('{"a": 1}', "-", True),
        ("Note this: that\n", "-", False),
        ("kind: Pod", "notes.txt", False),
        ("word", "x.YML", True),
        ("", "-", False),
    ],
)
def test_yaml_is_distinguished_from_text(text, name, is_yaml):
    assert is_yaml_text(text, name) is is_yaml


class TestHostile:
    def test_aliases_of_aliases_cost_nothing(self, reader):
        lines = ["a0: &a0 [x, x]"]
        lines += [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 500)]
        assert names(found("\n".join([*lines, "image: x:1"]))) == ["x:1"]

    def test_merged_keys_have_a_limit(self, reader, monkeypatch):
        monkeypatch.setattr(image_search, "VALUE_LIMIT", 1000)
        keys = ", ".join(f"k{n}image: x" for n in range(500))
        text = f"base: &b {{{keys}}}\n" + "".join(f"m{n}: {{<<: *b}}\n" for n in "abc")
        with pytest.raises(InvalidJSON, match="line 4: '<<' stands for more than 1000"):
            found(text)

    def test_an_alias_of_a_long_text_is_not_read_again(self, reader):
        text = "a: &a |\n  image: x:1\n" + "b: *a\n" * 3
        assert names(found(text)) == ["x:1"]

    def test_deep_nesting_ends(self, reader):
        text = "image: x:1\na: " + "[" * (DEEPEST * 3)
        if reader == "PyYAML":
            with pytest.raises(InvalidJSON, match=r"x\.yaml:2: .*nest"):
                found(text)
        else:
            findings = found(text)
            assert names(findings) == ["x:1"]
            assert "too deep" in findings.problems[0].text

    def test_deep_blocks_end(self, reader):
        text = "".join(" " * n + "a:\n" for n in range(DEEPEST + 9))
        text += "image: x:1\n"
        if reader == "PyYAML":
            with pytest.raises(InvalidJSON, match="nested too deep"):
                found(text)
        else:
            findings = found(text)
            assert names(findings) == ["x:1"]
            assert any("too deep" in one.text for one in findings.problems)

    @pytest.mark.parametrize(
        "text",
        [
            "image: " + "a" * 200_000,
            "a: '" + "x" * 200_000,
            "- " * 2_000,
            "x: " + '"' + " " * 100_000,
            "args: [" + "image" * 50_000 + "]",
            "image: " + "${a-" * 50_000,
            "image: &a *a",
            "? a\n: b",
            "\tx: 1",
            "a: }",
            "\x00",
            "a: @",
            "--- %",
            "*",
        ],
        ids=lambda text: repr(text[:12]),
    )
    def test_nonsense_is_reported_or_refused(self, text, reader):
        try:
            assert found(text).images == []
        except InvalidJSON as error:
            assert str(error).startswith("x.yaml:1: ") or "deep" in str(error)
            assert len(str(error)) < 300

    def test_broken_yaml_is_refused_with_its_line(self):
        pytest.importorskip("yaml")
        with pytest.raises(InvalidJSON, match=r"x\.yaml:3: not YAML: .*helm template"):
            found("image: x:1\n{{- if .Values.a }}\nimage: y:1\n")

    def test_own_rules_find_what_is_no_yaml(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "yaml", None)
        findings = found("image: x:1\n{{- if .Values.a }}\na: {image: y:1}\n")
        assert findings.problems[0].line == 2
        assert "x:1" in names(findings)

    def test_it_can_be_stopped(self, reader):
        def stop() -> None:
            raise Cancelled("stopped")

        with pytest.raises(Cancelled):
            find_images("a: {b: c}", "x.yaml", {}, check=stop)


@given(st.text(max_size=300), st.sampled_from(["x.yaml", "-", "x.txt"]))
def test_whatever_comes_there_is_an_answer(text, name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "yaml", None)
        findings = find_images(text, name, {})
    assert all(one.image.tag or one.image.digest for one in findings.images)


@given(st.text(alphabet="ab: -\n#{}[],'\"&*|>?!%$\\\t", max_size=60))
def test_own_rules_find_no_other_images_than_pyyaml(text):
    """What PyYAML reads has the same images by the own rules, or they tell why not."""
    pytest.importorskip("yaml")
    text = text.replace("a", "image: x:1")
    try:
        wanted = find_images(text, "x.yaml", {})
    except InvalidJSON:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "yaml", None)
        findings = find_images(text, "x.yaml", {})
    assert names(findings) == names(wanted) or findings.problems
