#!/usr/bin/env python3
"""Turns an Azure package into its model, without importing it: types and operations.

Usage: azure_model.py FOLDER > model.json. Types are the TypedDicts of types.py and the enums of models/_enums.py as JSON
schemas; operations are the requests that operations/_operations.py builds: method, URL, API version, query parameters.
Every TypedDict becomes a closed object: a member that it doesn't have is
wrong. Only members marked Required are required. An enum of the package is closed, too, unless the service leaves it
open (sizes of machines grow faster than packages).
"""
import ast
import json
import pathlib
import sys

OPEN = {"VirtualMachineSizeTypes"}
PLAIN = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}


def enums(path):
    """Name of an enum to its values."""
    found = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            values = [item.value.value for item in node.body
                      if isinstance(item, ast.Assign) and isinstance(item.value, ast.Constant)]
            found[node.name] = values
    return found


def schema(hint, types, values):
    """JSON schema of a type hint."""
    if isinstance(hint, ast.Constant):  # a forward reference
        if hint.value is None:
            return {"type": "null"}
        return schema(ast.parse(hint.value, mode="eval").body, types, values)
    if isinstance(hint, ast.Name):
        if hint.id in PLAIN:
            return {"type": PLAIN[hint.id]}
        if hint.id in types:
            return {"$ref": hint.id}
        if hint.id in values:
            return {"type": "string"} if hint.id in OPEN else {"enum": values[hint.id]}
        return {}  # Any, JSON
    if isinstance(hint, ast.Attribute):
        return {}
    kind = hint.value.id if isinstance(hint.value, ast.Name) else hint.value.attr
    inner = hint.slice.elts if isinstance(hint.slice, ast.Tuple) else [hint.slice]
    if kind == "Required":
        return schema(inner[0], types, values)
    if kind == "Optional":
        return schema(inner[0], types, values)
    if kind == "Union":
        known = [schema(part, types, values) for part in inner]
        # Union[str, "SomeEnum"]: the enum says which strings.
        closed = [part for part in known if "enum" in part]
        return closed[0] if closed else known[0] if len(known) == 1 else {"anyOf": known}
    if kind == "Literal":
        return {"enum": [part.attr if isinstance(part, ast.Attribute) else part.value for part in inner]}
    if kind.lower() in ("list", "sequence"):
        return {"type": "array", "items": schema(inner[0], types, values)}
    if kind.lower() in ("dict", "mapping"):
        return {"type": "object", "additionalProperties": schema(inner[1], types, values)}
    raise SystemExit(f"unknown type {ast.dump(hint)}")


def operations(path):
    """The requests that the package can build."""
    found = []
    for function in ast.parse(path.read_text()).body:
        if not isinstance(function, ast.FunctionDef) or not function.name.startswith("build_"):
            continue
        request = {"name": function.name[6:-8], "query": []}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
                if isinstance(node.targets[0], ast.Name) and node.targets[0].id == "_url":
                    request["url"] = node.value.value
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
                target = node.targets[0]
                if isinstance(target.value, ast.Name) and target.value.id == "_params":
                    request["query"].append(target.slice.value)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "pop":
                if len(node.args) == 2 and isinstance(node.args[0], ast.Constant) and node.args[0].value == "api-version":
                    request["version"] = node.args[1].value
            if isinstance(node, ast.keyword) and node.arg == "method":
                request["method"] = node.value.value
        found.append(request)
    return found


def main(folder):
    """Prints the model of a package."""
    values = enums(folder / "models" / "_enums.py")
    types_file = folder / "types.py"  # older packages have operations only
    source = types_file.read_text() if types_file.exists() else ""
    classes = [n for n in ast.parse(source).body if isinstance(n, ast.ClassDef)]
    types = {node.name for node in classes}
    model = {}
    for node in classes:  # bases come first
        members, required = {}, []
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in model:
                members.update(model[base.id]["properties"])
                required += model[base.id]["required"]
        for item in node.body:
            if not isinstance(item, ast.AnnAssign):
                continue
            members[item.target.id] = schema(item.annotation, types, values)
            hint = item.annotation
            if isinstance(hint, ast.Subscript) and isinstance(hint.value, ast.Name) and hint.value.id == "Required":
                required.append(item.target.id)
        model[node.name] = {"properties": members, "required": sorted(set(required))}
    requests = operations(folder / "operations" / "_operations.py")
    json.dump({"types": model, "operations": requests}, sys.stdout, sort_keys=True)


main(pathlib.Path(sys.argv[1]))
