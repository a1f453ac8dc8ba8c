import math
import os

from zsclip.pixels.processors import _cgroup_cpus, available_cpus


def test_at_least_one_cpu_and_no_more_than_the_machine_has():
    assert 1 <= available_cpus() <= (os.cpu_count() or 1)


def test_the_cgroup_quota_is_the_smallest_above_us(tmp_path):
    (tmp_path / "membership").write_text("0::/a/b\n")
    (tmp_path / "mount/a/b").mkdir(parents=True)
    assert _cgroup_cpus(tmp_path / "membership", tmp_path / "mount") == math.inf

    (tmp_path / "mount/a/b/cpu.max").write_text("max 100000\n")
    (tmp_path / "mount/a/cpu.max").write_text("150000 100000\n")
    assert _cgroup_cpus(tmp_path / "membership", tmp_path / "mount") == 1.5

    (tmp_path / "mount/cpu.max").write_text("50000 100000\n")
    assert _cgroup_cpus(tmp_path / "membership", tmp_path / "mount") == 0.5


def test_the_quota_of_the_first_cgroups_is_read_too(tmp_path):
    (tmp_path / "membership").write_text("5:memory:/x\n4:cpu,cpuacct:/docker/abc\n")
    folder = tmp_path / "mount/cpu,cpuacct"  # the container sees its own group at the top
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("300000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert _cgroup_cpus(tmp_path / "membership", tmp_path / "mount") == 3.0

    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert _cgroup_cpus(tmp_path / "membership", tmp_path / "mount") == math.inf


def test_a_machine_without_cgroups_has_no_quota(tmp_path):
    assert _cgroup_cpus(tmp_path / "none", tmp_path) == math.inf
