"""`rnnlab doctor` says what is there, what is not, and what to do about it."""

import pytest
import torch
from rnnlab_kernels.cpu import cache, toolchain

from rnnlab.recurrence import doctor


def found():
    return {finding.what: finding for finding in doctor.examine()}


def test_finds_what_the_tests_run_on():
    seen = found()
    assert torch.__version__ in seen["packages"].found
    assert seen["Python"].grade == "good"
    assert not [finding for finding in seen.values() if finding.grade == "error"]
    if toolchain.missing() is None:
        assert toolchain.compiler().version in seen["C++ compiler"].found
        assert "right" in seen["a fused cell"].found
        assert str(cache.folder()) in seen["kernel cache"].found


def test_prints_a_table_and_succeeds(capsys):
    assert doctor.main([]) == 0
    out = capsys.readouterr().out
    for what in ("Python", "packages", "C++ compiler", "kernel cache", "threads", "GPU"):
        assert what in out


def test_without_a_compiler_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    seen = found()
    assert seen["C++ compiler"].grade == "warning"
    assert "install" in seen["C++ compiler"].found
    assert doctor.main([]) == 0


def test_a_compiler_that_is_not_there(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in found()["C++ compiler"].found


def test_a_cache_that_others_may_write_to(monkeypatch, tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu").chmod(0o777)
    monkeypatch.setenv("RNNLAB_CACHE_DIR", str(tmp_path))
    finding = found()["kernel cache"]
    assert finding.grade == "warning"
    assert "others may write" in finding.found and "RNNLAB_CACHE_DIR" in finding.advice


def test_a_missing_package_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CORE", ("torch", "no-such-package"))
    finding = found()["packages"]
    assert finding.grade == "error" and finding.advice == "pip install no-such-package"
    assert doctor.main([]) == 1


def test_too_many_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 10_000)
    assert found()["threads"].grade == "warning"


def test_a_look_that_fails_is_a_finding(monkeypatch):
    def broken():
        raise OSError("no disk")

    monkeypatch.setattr(toolchain, "missing", broken)
    finding = found()["compiler"]
    assert finding.grade == "error" and "no disk" in finding.found


def test_a_kernel_that_computes_wrongly_is_an_error(monkeypatch):
    if toolchain.missing() is not None:
        pytest.skip(str(toolchain.missing()))
    from rnnlab.recurrence.fused import Fused

    run = Fused.run

    def wrong(self, call):
        outputs, final = run(self, call)
        return outputs * 1.001, final

    monkeypatch.setattr(Fused, "run", wrong)
    finding = found()["a fused cell"]
    assert finding.grade == "error" and "computes wrongly" in finding.found
