"""Finding and making the host: what is trusted, what is refused, what an interrupted run leaves."""

import tarfile

import pytest
from comfy_host import PACK_ROOT, SetupError, cache, tree
from comfy_host.environment import SetupState


def make_comfyui(folder, version="0.30.0"):
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    return folder


@pytest.fixture
def archive(tmp_path):
    """A source distribution in small: (path, sha256)."""
    source = make_comfyui(tmp_path / "source" / "vendor" / "ComfyUI")
    path = tmp_path / "package.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(source, "package/vendor/ComfyUI")
        tar.add(source / "main.py", "package/setup.py")
    return path, tree.sha256(path)


def test_the_comfyui_around_the_pack_wins(tmp_path, monkeypatch):
    around = make_comfyui(tmp_path / "around")
    monkeypatch.setenv("COMFYUI_PATH", str(make_comfyui(tmp_path / "named")))
    assert tree.find_tree(around / "custom_nodes" / "pack") == around


def test_comfyui_path_is_next(tmp_path, monkeypatch):
    named = make_comfyui(tmp_path / "named")
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    assert tree.find_tree(tmp_path / "elsewhere" / "pack") == named


def test_without_either_there_is_none(tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert tree.find_tree(tmp_path / "pack") is None


def test_a_comfyui_path_without_comfyui_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(SetupError, match=f"{tmp_path}.*main.py"):
        tree.find_tree(tmp_path / "pack")


def test_an_old_comfyui_is_refused(tmp_path):
    old = make_comfyui(tmp_path / "old", "0.29.9")
    with pytest.raises(SetupError, match="older than 0.30"):
        tree.checked_version(old)


@pytest.mark.parametrize("version", ["0.30.0", "0.31.2", "1.0.0"])
def test_a_new_enough_comfyui_is_taken(tmp_path, version):
    assert tree.checked_version(make_comfyui(tmp_path, version)) == tmp_path


def test_the_vendored_folder_is_unpacked(archive, tmp_path):
    path, digest = archive
    tree.unpack(path, digest, "package/vendor/ComfyUI", tmp_path / "comfyui")
    assert tree.is_comfyui(tmp_path / "comfyui")
    assert not (tmp_path / "setup.py").exists()


def test_another_hash_is_refused_and_nothing_unpacked(archive, tmp_path):
    path, _ = archive
    with pytest.raises(SetupError, match="expected 000.*Delete it"):
        tree.unpack(path, "0" * 64, "package/vendor/ComfyUI", tmp_path / "comfyui")
    assert not list(tmp_path.glob("comfyui*"))


def test_a_failed_unpacking_leaves_nothing(archive, tmp_path):
    path, digest = archive
    with pytest.raises(FileNotFoundError):
        tree.unpack(path, digest, "package/not/there", tmp_path / "comfyui")
    assert not list(tmp_path.glob("comfyui*"))


def test_the_download_is_pinned_by_hash(tmp_path, monkeypatch):
    commands = []

    def note(command, log):
        commands.append(command)
        (tmp_path / "pip").mkdir(exist_ok=True)

    monkeypatch.setattr(tree, "run_logged", note)
    tree.download_sdist(tmp_path)
    assert "--require-hashes" in commands[-1]
    assert tree.SDIST_SHA256 in (tmp_path / "pinned.txt").read_text()


def test_the_unpacked_tree_is_not_fetched_again(tmp_path, monkeypatch):
    ready = make_comfyui(tmp_path / f"comfyui-{tree.COMFYUI_VERSION}")
    monkeypatch.setattr(tree, "download_sdist", lambda downloads: pytest.fail("downloaded again"))
    assert tree.unpacked_tree(tmp_path) == ready


def test_a_stage_is_done_once_for_the_same_inputs(tmp_path):
    runs = []
    for inputs in ("a", "a", "b"):
        SetupState(tmp_path / "state.json").stage("torch", inputs, lambda: runs.append(1))
    assert len(runs) == 2


def test_a_stage_that_failed_is_tried_again(tmp_path):
    def fail():
        raise SetupError("no network")

    state = SetupState(tmp_path / "state.json")
    with pytest.raises(SetupError):
        state.stage("torch", "a", fail)
    runs = []
    assert state.interrupted is None
    state.stage("torch", "a", lambda: runs.append(1))
    assert runs


def test_a_stage_that_was_cut_off_is_noticed(tmp_path):
    def killed():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SetupState(tmp_path / "state.json").stage("torch", "a", killed)
    assert SetupState(tmp_path / "state.json").interrupted == "torch"


def test_a_failed_command_shows_the_end_of_its_output(tmp_path):
    command = ["sh", "-c", "echo the reason; exit 3"]
    with pytest.raises(SetupError, match=r"(?s)code 3.*the reason"):
        cache.run_logged(command, tmp_path / "log")


def test_the_cache_directory_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDIT_CACHE", str(tmp_path / "here"))
    assert cache.cache_dir() == tmp_path / "here"


def test_the_pack_is_the_repository():
    assert (PACK_ROOT / "pyproject.toml").is_file()
