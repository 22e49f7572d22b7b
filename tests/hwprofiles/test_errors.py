"""Errors are one line."""

from __future__ import annotations

import pickle

from hwprofiles.errors import RequestError


def test_what_a_message_quotes_is_brought_onto_its_line() -> None:
    error = RequestError("it failed:\n    File 3,\r\n\n    line 4\n; mend  it")
    assert str(error) == "it failed: File 3, line 4 ; mend  it"
    assert str(RequestError("row \x1b[2J of\ta \ud800")) == "row \ufffd[2J of a \ufffd"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
