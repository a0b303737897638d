"""Memory is given back now and then, and another C library does no harm."""

import ctypes
import platform

import pytest

from echoembed.engine import heap


@pytest.fixture
def trims(monkeypatch):
    calls = []
    monkeypatch.setattr(heap, "_trim", lambda: calls.append)
    monkeypatch.setattr(heap, "_since", 0)
    return calls


def test_it_is_given_back_after_so_many_tokens(trims):
    for _ in range(10):
        heap.computed(heap.EVERY // 4)
    assert trims == [0, 0]


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(heap, "_trim", lambda: None)
    monkeypatch.setattr(heap, "_since", 0)
    heap.computed(10 * heap.EVERY)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_glibcs_function_is_found_and_runs():
    trim = heap._trim()
    assert isinstance(trim, ctypes._CFuncPtr)
    assert trim(0) in (0, 1)
