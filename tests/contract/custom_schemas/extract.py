"""Writes the schemas of this folder from npm packages with the types of the custom resources.

    npm install --ignore-scripts --force @kubernetes-models/gateway-api@2.0.0 @kubernetes-models/istio@3.0.1 \
        @kubernetes-models/cert-manager@6.0.0 @kubernetes-models/external-secrets@2.0.0 \
        @kubernetes-models/argo-cd@4.0.0 @kubernetes-models/flux-cd@4.0.0 @kubernetes-models/argo-rollouts@2.0.0
    python tests/contract/custom_schemas/extract.py node_modules

RayJob.json is written by hand, because no package has its types.

The packages are not installed for the tests, which read only the files. The types say which fields there are, which are
required, and the values of enumerations; patterns and limits of numbers are not in them.
"""

from __future__ import annotations

import functools
import json
import re
import sys
from pathlib import Path
from typing import Any, Final

Schema = dict[str, Any]

SOURCES: Final = {
    ("gateway.networking.k8s.io/v1", "Gateway"): "gateway-api",
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): "gateway-api",
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): "gateway-api",
    ("networking.istio.io/v1", "DestinationRule"): "istio",
    ("security.istio.io/v1", "AuthorizationPolicy"): "istio",
    ("security.istio.io/v1", "PeerAuthentication"): "istio",
    ("cert-manager.io/v1", "Certificate"): "cert-manager",
    ("external-secrets.io/v1", "ExternalSecret"): "external-secrets",
    ("external-secrets.io/v1", "SecretStore"): "external-secrets",
    ("argoproj.io/v1alpha1", "Application"): "argo-cd",
    ("argoproj.io/v1alpha1", "Rollout"): "argo-rollouts",
    ("argoproj.io/v1alpha1", "AnalysisTemplate"): "argo-rollouts",
    ("source.toolkit.fluxcd.io/v1", "GitRepository"): "flux-cd",
    ("kustomize.toolkit.fluxcd.io/v1", "Kustomization"): "flux-cd",
}
"""Package with the type of each kind, by apiVersion and kind."""

PROVIDERS: Final = {"aws"}
"""Secret stores whose fields are kept; there are dozens."""

TOKEN: Final = re.compile(r'"[^"]*"|[A-Za-z_][\w.]*|[{}<>\[\]()|?:;=,&]')


class Types:
    """The type declarations of one file, and of the files that it imports."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = re.sub(r"/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)
        self.imports = dict(re.findall(r'^import \{ (\w+) \} from "(\.[^"]+)";', text, re.MULTILINE))
        self.aliases = {new: old for old, new in re.findall(r"(\bI\w+) as (I\w+)", text)}
        interfaces = re.findall(
            r"^export interface (\w+)(?: extends ([\w, ]+))? (\{.*?^\})", text, re.MULTILINE | re.DOTALL
        )
        self.parents = {name: parents.split(", ") if parents else [] for name, parents, _ in interfaces}
        found = [(name, body) for name, _, body in interfaces]
        found += re.findall(r"^export type (I\w+) = (.*?);$", text, re.MULTILINE | re.DOTALL)
        self.declared: dict[str, str] = dict(found)

    def schema(self, name: str) -> Schema:
        """Return the schema of a type that this file declares or imports."""
        name = self.aliases.get(name, name)
        if name in self.declared:
            self.tokens = TOKEN.findall(self.declared[name])
            schema = self.parsed()
            for parent in self.parents.get(name, []):
                inherited = self.schema(parent)
                schema["properties"] = inherited.get("properties", {}) | schema.get("properties", {})
                schema["additionalProperties"] = False
                required = {*inherited.get("required", []), *schema.get("required", [])}
                schema |= {"required": sorted(required)} if required else {}
            return schema
        if name in self.imports:
            target = (self.path.parent / self.imports[name]).with_suffix(".d.ts")
            return types(target).schema(name)
        return {}  # a type of Kubernetes itself, or any value

    def parsed(self) -> Schema:
        """Return the schema of the type whose tokens are next."""
        options = [self._single()]
        while self.tokens[:1] in (["|"], ["&"]):
            if self._next_is("&"):
                self._skip()  # alternatives with the fields of the type before it
            else:
                del self.tokens[0]
                options.append(self._single())
        constants = [option["const"] for option in options if "const" in option]
        if len(constants) == len(options):
            return {"enum": constants}
        return options[0] if len(options) == 1 else {"anyOf": options}

    def _single(self) -> Schema:
        token = self.tokens.pop(0)
        if token == "{":
            return self._object()
        if token == "Array":
            assert self._next_is("<")
            items = self.parsed()
            assert self._next_is(">")
            return {"type": "array", "items": items}
        if token.startswith('"'):
            return {"const": token.strip('"')}
        if token in ("string", "number", "boolean", "null"):
            return {"type": token}
        if not token.startswith("I"):
            return {}
        rest = self.tokens
        schema = self.schema(token)
        self.tokens = rest
        return schema

    def _object(self) -> Schema:
        properties, required = {}, []
        while not self._next_is("}"):
            token = self.tokens.pop(0)
            if token == "[":  # [key: string]: TYPE;
                del self.tokens[:4]
                assert self._next_is(":")
                values = self.parsed()
                self._next_is(";")
                assert self._next_is("}")
                return {"type": "object", "additionalProperties": values}
            optional = self._next_is("?")
            assert self._next_is(":"), (self.path, token, self.tokens[:5])
            properties[token.strip('"')] = self.parsed()
            if not optional:
                required.append(token.strip('"'))
            self._next_is(";")
        if not properties:  # {}: an object with any fields
            return {"type": "object"}
        schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
        return schema | ({"required": sorted(required)} if required else {})

    def _skip(self) -> None:
        """Skip a type in brackets."""
        depth = 0
        while True:
            token = self.tokens.pop(0)
            depth += (token in "([{<") - (token in ")]}>")
            if depth == 0:
                return

    def _next_is(self, token: str) -> bool:
        if self.tokens[:1] != [token]:
            return False
        del self.tokens[0]
        return True


@functools.cache
def types(path: Path) -> Types:
    """Return the declarations of a file, read once."""
    return Types(path)


def main(modules: Path) -> None:
    """Write a file for each kind."""
    for (api_version, kind), package in SOURCES.items():
        folder = modules / "@kubernetes-models" / package
        release = json.loads((folder / "package.json").read_text())["version"]
        schema = types(folder / api_version / f"{kind}.d.ts").schema(f"I{kind}")
        properties = schema["properties"]
        properties.pop("status", None)
        properties |= {"apiVersion": {"const": api_version}, "kind": {"const": kind}, "metadata": {"type": "object"}}
        schema["required"] = ["apiVersion", "kind", "metadata", "spec"]
        if kind == "SecretStore":
            providers = properties["spec"]["properties"]["provider"]["properties"]
            for name in set(providers) - PROVIDERS:
                del providers[name]
        source = f"the types of npm @kubernetes-models/{package} {release}, without status"
        text = json.dumps({"$comment": source} | schema, separators=(",", ":"), sort_keys=True)
        path = Path(__file__).with_name(f"{kind}.json")
        path.write_text(text + "\n")
        print(f"{len(text):7} {path.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
