"""Shisen-Sho with photos: what is on the tiles, and where the photos come from. Its rules are those of `shisen_sho`."""

import io
import pickle
import tarfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgym
from jaxgym import engine, photos
from jaxgym.games.shisen_sho import State


@pytest.fixture(scope="module")
def game():
    return jaxgym.make("shisen_sho_photo")


@pytest.fixture(scope="module")
def boards(game):
    return np.asarray(jax.jit(jax.vmap(game.reset))(jax.random.split(jax.random.key(0), 1024)).board)


# The tiles


def test_every_tile_of_a_deal_is_another_picture(game, boards):
    pixels = np.asarray(game.sheet.pixels)
    for board in boards:
        assert len({pixels[sprite].tobytes() for sprite in board.ravel()}) == 36


def test_every_class_is_dealt_four_times(game, boards):
    for board in boards:
        shown = [game.sheet.names[sprite] for sprite in board.ravel()]
        assert {name: shown.count(name) for name in shown} == {f"digit {k}": 4 for k in range(1, 10)}


def test_deals_use_the_whole_album(game, boards):
    assert len(np.unique(boards)) == len(game.sheet.names) - 1


def test_names_say_what_the_pictures_show(game):
    """A classifier that was never told a sprite's name agrees with it: the nearest other picture of the sheet."""
    pixels = np.asarray(game.sheet.pixels)[1:, :, :, 0].reshape(len(game.sheet.names) - 1, -1).astype(np.float32)
    squares = (pixels**2).sum(1)
    distance = squares[:, None] + squares[None] - 2 * pixels @ pixels.T
    np.fill_diagonal(distance, np.inf)
    names = np.array(game.sheet.names[1:])
    assert (names[distance.argmin(1)] == names).mean() > 0.97


def test_tiles_match_by_class_as_in_the_plain_game(game, boards):
    plain = jaxgym.make("shisen_sho")
    number = np.array([0, *(int(name.removeprefix("digit ")) for name in game.sheet.names[1:])], np.int32)
    by_photo = jax.jit(jax.vmap(game.legal))(State(jnp.asarray(boards)))
    by_class = jax.jit(jax.vmap(plain.legal))(State(jnp.asarray(number[boards])))
    np.testing.assert_array_equal(by_photo, by_class)
    assert np.asarray(by_photo).any(1).all()


@pytest.mark.slow  # it is the teacher of shisen_sho, which is tried there
def test_teacher_clears_photos(game):
    def play(key):
        return engine.rollout(game, engine.teacher(game), game.reset(key), key, 18)[1].reward.sum()

    removed = np.asarray(jax.jit(jax.vmap(play))(jax.random.split(jax.random.key(1), 256)))
    assert (removed == 18).mean() >= 0.99


def test_explain_names_the_class(game, boards):
    state = State(jnp.asarray(boards[0]))
    action = int(np.argmax(game.legal(state)))
    name = game.sheet.names[boards[0].ravel()[action // 36]]
    assert game.explain(state, action).startswith(f"{game.actions.format(action)}: two {name}, joined with ")


def test_ten_classes_on_a_larger_board():
    game = jaxgym.make("shisen_sho_photo", size=10, kinds=10)
    board = np.asarray(jax.jit(game.reset)(jax.random.key(0)).board)
    assert len(np.unique(board)) == 100
    assert {game.sheet.names[sprite] for sprite in board.ravel()} == {f"digit {k}" for k in range(10)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": 18}, "kinds=18 is not one of 1, 2, 3, 6, 9"),
        ({"size": 7}, "size=7 is not one of"),
        ({"max_turns": -1}, "max_turns=-1"),
        ({"photos": "/no/such/folder"}, "does not exist: give photos="),
        ({"photos": 3}, "photos=3 is no path: give photos="),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, message):
    with pytest.raises(ValueError) as raised:
        jaxgym.make("shisen_sho_photo", **options)
    assert message in str(raised.value) and "\n" not in str(raised.value)


# The embedded photos


def test_digits_are_clear_pictures():
    names, pictures, labels = photos.load("digits")
    assert names == (*(f"digit {k}" for k in range(1, 10)), "digit 0")
    assert pictures.dtype == np.uint8 and pictures.shape[3] == 3 and labels.dtype == np.int32
    counts = np.bincount(labels, minlength=10)
    assert len(counts) == 10 and 144 <= counts.min() <= counts.max() <= photos.PER_CLASS
    assert (pictures[:, 0] > 200).all(), "paper around the ink"
    assert (pictures.min((1, 2, 3)) < 60).all(), "ink on every picture"


def test_digits_without_their_package_say_what_to_install(monkeypatch):
    monkeypatch.setattr(photos.importlib.util, "find_spec", lambda name: None)
    photos.digits.cache_clear()
    with pytest.raises(ValueError, match="install scikit-learn"):
        photos.load("digits")


# CIFAR-10, in the format of its official archive but small

CLASSES = [b"airplane", b"automobile", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
FOLDER = "cifar-10-batches-py"


def python2_strings(words):
    """A pickle of {"label_names": words} with the string opcodes of Python 2, as in the official file."""
    said = [b"U" + bytes([len(word)]) + word for word in (b"label_names", *words)]
    return b"\x80\x02}(" + said[0] + b"](" + b"".join(said[1:]) + b"eu."


def cifar_files(per_batch=20, seed=0, protocol=2):
    """The files of CIFAR-10 with noise for pictures: {name: bytes}, and the pictures by class."""
    rng = np.random.default_rng(seed)
    files, pictures = {"batches.meta": python2_strings(CLASSES), "readme.html": b"not ours"}, []
    for i in range(1, 6):
        data = rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8)
        labels = [(j + i) % 10 for j in range(per_batch)]
        content = {b"batch_label": b"training batch", b"labels": labels, b"data": data, b"filenames": [b"x.png"]}
        files[f"data_batch_{i}"] = pickle.dumps(content, protocol=protocol)
        pictures += zip(labels, data, strict=True)
    return files, pictures


def write_folder(path, files):
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


def write_archive(path, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in sorted(
            files.items(), reverse=True
        ):  # not in the order of the batches, as in the official one
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


@pytest.fixture
def files():
    return cifar_files()[0]


@pytest.mark.parametrize(
    ("form", "protocol"), [("archive", 2), ("folder", 2), ("folder around it", 2), ("folder", 4), ("folder", 5)]
)
def test_cifar_is_read_from_archive_or_folder(tmp_path, form, protocol):
    """Also as Python writes it anew today."""
    files, expected = cifar_files(protocol=protocol)
    if form == "archive":
        path = write_archive(tmp_path / "cifar-10-python.tar.gz", files)
    else:
        path = write_folder(tmp_path / FOLDER, files)
        path = path if form == "folder" else tmp_path
    names, pictures, labels = photos.load(path)
    assert names == tuple(name.decode() for name in CLASSES)
    assert pictures.shape == (100, 32, 32, 3) and labels.tolist() == sorted(labels.tolist())
    for k in range(10):
        of_class = [data for label, data in expected if label == k]
        for picture, data in zip(pictures[labels == k], of_class, strict=True):
            for channel in range(3):  # the official layout: a plane of red, of green, of blue, row by row
                np.testing.assert_array_equal(
                    picture[..., channel].ravel(), data[channel * 1024 : (channel + 1) * 1024]
                )


def test_an_archive_without_its_end_is_told(tmp_path, files):
    """All files are in it, and what says that they are whole is not."""
    path = write_archive(tmp_path / "cifar-10-python.tar.gz", files)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="cannot be read"):
        photos.load(path)


def test_cifar_keeps_no_more_photos_than_a_sheet_should_hold(tmp_path):
    files, _ = cifar_files(per_batch=500)  # 250 of a class
    labels = photos.load(write_folder(tmp_path / FOLDER, files)).labels
    assert np.bincount(labels).tolist() == [photos.PER_CLASS] * 10


def test_cifar_plays(tmp_path, files):
    path = write_archive(tmp_path / "cifar-10-python.tar.gz", files)
    game = jaxgym.make("shisen_sho_photo", photos=str(path))
    board = np.asarray(jax.jit(game.reset)(jax.random.key(0)).board)
    shown = [game.sheet.names[sprite] for sprite in board.ravel()]
    assert len(np.unique(board)) == 36
    assert {name: shown.count(name) for name in shown} == {name.decode(): 4 for name in CLASSES[:9]}


def test_too_few_photos_for_the_board(tmp_path, files):
    path = write_folder(tmp_path / FOLDER, files)
    with pytest.raises(ValueError, match="has 10 pictures of some class, but kinds=3 on 6x6 needs 12 different"):
        jaxgym.make("shisen_sho_photo", kinds=3, photos=str(path))


class Shell:
    """What a hostile pickle would run."""

    def __reduce__(self):
        return (print, ("a pickle ran this",))


class Call:
    """What a pickle that is no array may ask of NumPy."""

    def __init__(self, *asked):
        self.asked = asked

    def __reduce__(self):
        return self.asked


POINTERS = Call(np.ndarray, ((1,), np.dtype("O"), b"A" * 8))  # an array of objects that lie at an address of its own
FAR = Call(np.dtype, ("V8", False, True), (3, "|", None, ("a",), {"a": (np.dtype("O"), 1 << 30)}, 8, 1, 63))


def batch(**content):
    return pickle.dumps({key.encode(): value for key, value in content.items()}, protocol=2)


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("data_batch_3", None, "lacks data_batch_3"),
        ("batches.meta", None, "lacks batches.meta"),
        ("data_batch_2", pickle.dumps({b"data": Shell()}, protocol=2), "data_batch_2: it is not a pickle of arrays"),
        ("data_batch_1", batch(data=Call(np.ndarray, (POINTERS,))), "data_batch_1: it is not a pickle of arrays"),
        ("data_batch_1", batch(data=Call(np.ndarray, ((4,), FAR))), "data_batch_1: it is not a pickle of arrays"),
        ("data_batch_1", batch(data=np.empty(3, object)), "data is not uint8 [N, 3072]"),
        ("data_batch_1", b"\x80\x02]r\xff\xff\xff\x7f.", "it keeps more than"),  # a table of 16 gigabytes
        ("data_batch_1", b"<html>not found</html>", "data_batch_1: it is not a pickle of arrays"),
        ("data_batch_1", b"", "data_batch_1: it is not a pickle of arrays"),
        ("data_batch_4", pickle.dumps([1, 2], protocol=2), "data_batch_4: it holds no dictionary"),
        ("data_batch_1", batch(data=PIXELS[:, :3000], labels=[0, 1]), "data is not uint8 [N, 3072]"),
        ("data_batch_1", batch(data=PIXELS.astype(np.int64), labels=[0, 1]), "data is not uint8 [N, 3072]"),
        ("data_batch_1", batch(data=PIXELS), "labels is not a list of 2 numbers"),
        ("data_batch_1", batch(data=PIXELS, labels=[0, 1, 2]), "labels is not a list of 2 numbers"),
        ("data_batch_5", batch(data=PIXELS, labels=[0, 10]), "some label is not a number from 0 to 9"),
        ("data_batch_5", batch(data=PIXELS, labels=[0, b"1"]), "some label is not a number from 0 to 9"),
        ("data_batch_1", batch(data=PIXELS, fine_labels=[0, 99]), "labels is not a list"),
        ("batches.meta", python2_strings(CLASSES[:9]), "label_names are not 10 different words"),
        ("batches.meta", python2_strings([b"a|b", *CLASSES[1:]]), "label_names is not a list of words"),
    ],
)
def test_damaged_cifar_is_refused_in_one_line(tmp_path, capfd, files, name, data, message):
    changed = files | {name: data} if data is not None else {k: v for k, v in files.items() if k != name}
    path = write_folder(tmp_path / FOLDER, changed)
    with pytest.raises(ValueError) as raised:
        photos.load(path)
    text = str(raised.value)
    assert message in text and 'photos="digits"' in text and "\n" not in text
    assert "a pickle ran this" not in capfd.readouterr().out


def link(name, target, kind):
    entry = tarfile.TarInfo(f"{FOLDER}/{name}")
    entry.type, entry.linkname = kind, target
    return entry


def of_size(name, size):
    entry = tarfile.TarInfo(f"{FOLDER}/{name}")
    entry.size = size
    return entry


@pytest.mark.parametrize(
    "entries",
    [
        [link("data_batch_1", "nowhere", tarfile.SYMTYPE)],
        [link("data_batch_1", f"{FOLDER}/nowhere", tarfile.LNKTYPE)],
        [link("data_batch_1", "data_batch_1", tarfile.SYMTYPE)],
        [link("data_batch_1", "data_batch_2", tarfile.SYMTYPE), link("data_batch_2", "data_batch_1", tarfile.SYMTYPE)],
        [link("data_batch_1", "../../etc/passwd", tarfile.SYMTYPE)],
        [link("batches.meta", "", tarfile.DIRTYPE)],
        [link("data_batch_1", "", tarfile.FIFOTYPE)],
        [of_size("data_batch_1", 1 << 40)],
    ],
    ids=["nowhere", "hard to nowhere", "to itself", "in a circle", "outside", "a folder", "a pipe", "endless"],
)
@pytest.mark.parametrize("first", [True, False])
def test_what_is_no_file_in_an_archive_is_refused_in_one_line(tmp_path, files, entries, first):
    names = {entry.name.removeprefix(f"{FOLDER}/") for entry in entries}
    path = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        whole = [(name, data) for name, data in files.items() if name not in names]
        for entry in entries if first else []:
            archive.fileobj.write(entry.tobuf())
        for name, data in whole:
            archive.addfile(of_size(name, len(data)), io.BytesIO(data))
        for entry in [] if first else entries:
            archive.fileobj.write(entry.tobuf())
    with pytest.raises(ValueError) as raised:
        photos.load(path)
    text = str(raised.value)
    assert 'photos="digits"' in text and "\n" not in text and len(text) < 600


@pytest.mark.parametrize("damage", ["nowhere", "circle"])
def test_links_in_a_folder_that_lead_nowhere(tmp_path, files, damage):
    folder = write_folder(tmp_path / FOLDER, {k: v for k, v in files.items() if k != "data_batch_3"})
    (folder / "data_batch_3").symlink_to("nowhere" if damage == "nowhere" else "data_batch_3")
    with pytest.raises(ValueError, match="lacks data_batch_3"):
        photos.load(folder)


@pytest.mark.parametrize("path", ["x" * 5000, "no\0file"])
def test_a_path_that_no_file_can_have(path):
    with pytest.raises(ValueError, match="photos="):
        photos.load(path)


@pytest.mark.parametrize("damage", ["cut short", "not an archive", "empty"])
def test_damaged_archive_is_refused_in_one_line(tmp_path, files, damage):
    path = write_archive(tmp_path / "cifar-10-python.tar.gz", files)
    whole = path.read_bytes()
    path.write_bytes({"cut short": whole[: len(whole) // 2], "not an archive": b"<html>", "empty": b""}[damage])
    with pytest.raises(ValueError) as raised:
        photos.load(path)
    text = str(raised.value)
    assert "cannot be read" in text and 'photos="digits"' in text and "\n" not in text
