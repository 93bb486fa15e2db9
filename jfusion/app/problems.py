"""Errors of what happens on the page where no answer would stand: a button of an example, a tab that is chosen."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from jfusion.app.ui import gr
from jfusion.app.words import Words
from jfusion.app.work import one_line


def in_a_corner(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler of an event, whose errors Gradio shows in a corner of the page, in one line each."""

    @wraps(handler)
    def told(*arguments: Any) -> Any:
        try:
            return handler(*arguments)
        except Exception as error:
            request = next((x for x in arguments if isinstance(x, gr.Request)), None)
            words = Words() if request is None else Words.of(request)
            raise gr.Error(one_line(error, {}, words("fault")), print_exception=False) from None

    return told
