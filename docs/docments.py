"""Tells mkdocstrings of parameters that are documented by comments, one a line, as fastcore's docments are."""

import ast
import io
import tokenize

import griffe


class Docments(griffe.Extension):
    "Appends the comments to the docstring, as the section that mkdocstrings makes a table of."

    def on_function_instance(self, *, node: ast.AST, func: griffe.Function, **kwargs) -> None:
        "Called for each function of the package."
        found = comments_of(node, func.source)
        if found and (func.docstring or func.name == "__init__"):
            rows = "".join(f"\n    {name}: {text}" for name, text in found.items())
            text = func.docstring.value if func.docstring else ""
            func.docstring = griffe.Docstring(f"{text}\n\nParameters:{rows}\n", parent=func)


def comments_of(
    node: ast.FunctionDef,  # of the whole file
    source: str,  # of the function alone, with its decorators
) -> dict[str, str]:
    "The comment at each parameter's end."
    first = min([node.lineno, *(o.lineno for o in node.decorator_list)])
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    try:
        comments = {o.start[0] + first - 1: o.string.lstrip("# ") for o in tokens if o.type == tokenize.COMMENT}
    except (tokenize.TokenError, IndentationError):
        return {}
    args = node.args
    named = [*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg]
    return {o.arg: comments[o.end_lineno] for o in named if o is not None and o.end_lineno in comments}
