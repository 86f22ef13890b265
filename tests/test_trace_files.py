import io
import os
import tracemalloc
import zipfile

import h5py
import numpy as np
import pytest

import gcref
from gcref.engine.trace import concatenate
from gcref.trace_files import TraceFile, TraceFileError, write_traces

FORMATS = ("h5", "npz")


def traces(n=7, seed=0):
    """A convolution in float64 and a fully connected layer in float32."""
    rng = np.random.default_rng(seed)
    return [
        gcref.Trace(rng.standard_normal((n, 4, 3)), rng.standard_normal((n, 4, 2))),
        gcref.Trace(rng.standard_normal((n, 5)).astype("f4"), rng.standard_normal((n, 2)).astype("f4")),
    ]


def arrays(n=7, **changes):
    """The arrays of a small file, some of them replaced, or left out where None."""
    named = {f"{letter}{b}": getattr(t, letter) for b, t in enumerate(traces(n)) for letter in "AD"} | changes
    return {name: array for name, array in named.items() if array is not None}


def save(path, named, **how):
    if path.suffix == ".npz":
        np.savez(path, **named)
    else:
        with h5py.File(path, "w") as file:
            for name, array in named.items():
                file.create_dataset(name, data=array, **how)
    return path


def assert_equal(found, expected):
    for f, e in zip(found, expected, strict=True):
        np.testing.assert_array_equal(f.A, e.A)
        np.testing.assert_array_equal(f.D, e.D)
        assert f.dtype == e.dtype


@pytest.fixture(params=FORMATS)
def path(request, tmp_path):
    return tmp_path / f"traces.{request.param}"


@pytest.mark.parametrize("suffix", [*FORMATS, "hdf5"])
@pytest.mark.parametrize("batch_bytes", [1, 500, 1 << 26])
def test_what_is_written_is_read_at_every_call(tmp_path, suffix, batch_bytes):
    path = tmp_path / f"traces.{suffix}"
    write_traces(path, traces())
    found = TraceFile(path, batch_bytes)
    assert (found.n_examples, found.blocks) == (7, [(4, 3, 2), (1, 5, 2)])
    assert found.nbytes == sum(t.nbytes for t in traces()) == 7 * 188
    sizes = [batch[0].n_examples for batch in found()]
    assert sizes == {1: [1] * 7, 500: [2, 2, 2, 1], 1 << 26: [7]}[batch_bytes]
    for _ in range(2):
        assert_equal(concatenate(list(found())), traces())
    assert os.listdir(tmp_path) == [path.name]


def test_batches_are_appended(path):
    parts = [[t.rows(slice(*rows)) for t in traces()] for rows in ((0, 3), (3, 3), (3, 7))]
    write_traces(path, (part for part in parts))
    assert_equal(concatenate(list(TraceFile(path)())), traces())
    other = path.with_stem("other")
    write_traces(other, lambda: iter(parts))
    assert_equal(concatenate(list(TraceFile(other)())), traces())


def test_arrays_of_anyone(path):
    """Two dimensions, big-endian numbers, further arrays, an old header."""
    named = arrays(A1=traces()[1].A[:, 0].astype(">f4"), D0=traces()[0].D.astype(">f8"), y=np.arange(7))
    assert_equal(concatenate(list(TraceFile(save(path, named), 300)())), traces())


def test_compressed_files(tmp_path):
    np.savez_compressed(tmp_path / "t.npz", **arrays())
    save(tmp_path / "t.h5", arrays(), compression="gzip", chunks=True)
    for name in ("t.npz", "t.h5"):
        assert_equal(concatenate(list(TraceFile(tmp_path / name, 500)())), traces())


def test_large_chunks_are_read_whole(tmp_path):
    A, D = np.ones((1200, 200)), np.ones((1200, 1))
    with h5py.File(tmp_path / "t.h5", "w") as file:
        file.create_dataset("A0", data=A, chunks=(1000, 200))
        file["D0"] = D
    each = 201 * 8
    for batch_bytes, sizes in ((700 * each, [1000, 200]), (1100 * each, [1000, 200]), (100 * each, [400] * 3)):
        assert [b[0].n_examples for b in TraceFile(tmp_path / "t.h5", batch_bytes)()] == sizes


def test_a_clusterer_takes_the_file(path):
    write_traces(path, traces(40))
    source = TraceFile(path, 1000)
    for fit in (gcref.SketchedClustering(4, n_iter=3), gcref.GradientClustering(4, n_iter=3)):
        expected = fit.fit([traces(40)]).labels_
        np.testing.assert_array_equal(fit.fit(source).labels_, expected)


def test_memory_does_not_grow_with_the_examples(path):
    """A pass over 16 MB holds no more than a few batches of 200 kB."""
    batch = [gcref.Trace(np.ones((500, 100)), np.ones((500, 28)))]
    write_traces(path, [batch] * 32)
    source = TraceFile(path, 200_000)
    tracemalloc.start()
    total = sum(float(batch[0].D.sum()) for batch in source())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.nbytes == 16_384_000
    assert total == 500 * 28 * 32
    assert peak < 4_000_000


# ------------------------------------------------------------------------------------------------------------ bad files

BAD = {
    "D of block 1 is missing": ({"D1": None}, "D1 is missing beside A1"),
    "A of block 0 is missing": ({"A0": None}, "A0 is missing beside D0"),
    "block 1 is missing": ({"A1": None, "D1": None, "A2": np.ones((7, 1))}, "A1 is missing though there is A2"),
    "N differs": ({"D1": np.ones((6, 2))}, "D1 has 6 examples but A0 has 7"),
    "N of blocks differs": ({"A1": np.ones((6, 2)), "D1": np.ones((6, 2))}, "A1 has 6 examples but A0 has 7"),
    "T differs": ({"D0": np.ones((7, 3, 2))}, "D0 has 3 positions but A0 has 4"),
    "integers": ({"A1": np.ones((7, 2), int)}, "A1 has dtype int64; float32 or float64"),
    "half": ({"A1": np.ones((7, 2), "f2")}, "A1 has dtype float16; float32 or float64"),
    "complex": ({"A1": np.ones((7, 2), complex)}, "A1 has dtype complex128; float32 or float64"),
    "a vector": ({"A1": np.ones(7)}, r"A1 has shape \(7,\); \(N, T, columns\) or"),
    "a number": ({"A1": np.float64(7)}, r"A1 has shape \(\); \(N, T, columns\) or"),
    "four dimensions": ({"A1": np.ones((7, 2, 2, 2))}, r"A1 has shape \(7, 2, 2, 2\);"),
    "no columns": ({"A1": np.ones((7, 0))}, r"A1 has shape \(7, 0\); at least one"),
    "no array": (dict.fromkeys(arrays()) | {"x": np.ones(2)}, "has no A0; arrays A0, D0, A1, .* found 'x'$"),
}


@pytest.mark.parametrize("name", BAD)
def test_arrays_that_do_not_fit(path, name):
    changes, message = BAD[name]
    with pytest.raises(TraceFileError, match=message) as error:
        TraceFile(save(path, arrays(**changes)))
    assert str(error.value).startswith(f"{path}: ")


def test_no_examples(path):
    with pytest.raises(ValueError, match=r"A0 has shape \(0, 4, 3\); at least one example"):
        TraceFile(save(path, arrays(0)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite(path, value):
    D = traces()[1].D[:, 0].copy()
    D[5, 1] = value
    source = TraceFile(save(path, arrays(D1=D)), 400)
    with pytest.raises(TraceFileError, match=r"traces.(h5|npz): D1 has NaN or infinity at example 5"):
        list(source())


def test_no_file(tmp_path):
    for path, message in ((tmp_path / "no.h5", "no such file"), (tmp_path, "is a folder; a file is expected")):
        with pytest.raises(TraceFileError, match=message):
            TraceFile(path)


@pytest.mark.parametrize("content", [b"", b"notes", b"\x93NUMPY", b"\x80\x04N."])
def test_neither_format(path, content):
    path.write_bytes(content)
    with pytest.raises(TraceFileError, match=r"is neither an HDF5 file nor an .npz archive"):
        TraceFile(path)


def test_a_file_cut_or_scrambled_anywhere_is_one_error_or_right(path):
    """Whatever is done to the bytes, the traces are read as written, or with other numbers, or there is one error."""
    whole = save(path, arrays()).read_bytes()
    rng = np.random.default_rng(0)
    n_errors = 0
    for cut in rng.integers(1, len(whole), 60):
        path.write_bytes(whole[:cut])
        with pytest.raises(TraceFileError):
            list(TraceFile(path)())
    for place in rng.integers(0, len(whole), 300):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            list(TraceFile(path)())
        except TraceFileError:
            n_errors += 1
    assert n_errors > 30


def test_a_file_that_changes_between_passes(path):
    source = TraceFile(save(path, arrays()))
    save(path, arrays(A0=None))
    with pytest.raises(TraceFileError, match="A0 is missing"):
        list(source())


# --------------------------------------------------------------------------------------------------------- npz archives


def npz(path, **members):
    """An archive of files with this content."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def header(shape, descr="<f8", fortran_order=False, version=(1, 0)):
    out = io.BytesIO()
    write = {(1, 0): np.lib.format.write_array_header_1_0, (2, 0): np.lib.format.write_array_header_2_0}[version]
    write(out, {"descr": descr, "fortran_order": fortran_order, "shape": shape})
    return out.getvalue()


def refused(path, message):
    with pytest.raises(TraceFileError, match=message):
        list(TraceFile(path)())


def test_pickled_objects_are_not_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "boom"),)

    bombs = np.empty((2, 1), object)
    bombs[:] = Bomb()
    np.savez(tmp_path / "t.npz", A0=bombs, D0=np.ones((2, 1)))
    refused(tmp_path / "t.npz", "A0 holds Python objects, which are not loaded")
    assert not (tmp_path / "boom").exists()


def test_sizes_that_are_only_declared(tmp_path):
    for shape in ((10**15, 1), (1, 10**15), (10**9, 10**9, 10**9)):
        content = header(shape) + bytes(16)
        refused(npz(tmp_path / "t.npz", A0=content, D0=content), "A0 has 16 bytes, but its shape .* needs")


def test_an_example_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr("gcref.trace_files.MOST", 1000)
    np.savez(tmp_path / "t.npz", A0=np.ones((2, 125)), D0=np.ones((2, 1)))
    refused(tmp_path / "t.npz", "one example has 1008 bytes in all arrays together; at most 1000")


def test_headers(tmp_path):
    ones = np.ones(2).tobytes()
    good = header((2, 1)) + ones
    path = tmp_path / "t.npz"
    assert TraceFile(npz(path, A0=header((2, 1), version=(2, 0)) + ones, D0=good)).n_examples == 2
    refused(npz(path, A0=header((1, 2), fortran_order=True) + ones, D0=good), r"save numpy.ascontiguousarray\(A0\)")
    refused(npz(path, A0=b"\x93NUMPY\x03\x00" + good[8:], D0=good), r"A0 has a header of version \(3, 0\)")
    refused(npz(path, A0=b"no array", D0=good), "cannot be read, it may be damaged: .*magic string")
    refused(npz(path, A0=header((-2, -1)) + ones, D0=good), r"A0 has shape \(-2, -1\); at least one")


def test_an_array_twice(tmp_path):
    good = header((1, 1)) + bytes(8)
    with zipfile.ZipFile(tmp_path / "t.npz", "w") as archive:
        archive.writestr("A0.npy", good)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("A0.npy", good)
    refused(tmp_path / "t.npz", "A0 is in the archive twice")


def test_a_wrong_checksum(tmp_path):
    np.savez(tmp_path / "t.npz", A0=np.ones((2, 1)), D0=np.full((2, 1), 3.0))
    content = (tmp_path / "t.npz").read_bytes()
    (tmp_path / "t.npz").write_bytes(content.replace(np.full(2, 3.0).tobytes(), np.full(2, 4.0).tobytes()))
    refused(tmp_path / "t.npz", "Bad CRC-32 for file 'D0.npy'")


# ---------------------------------------------------------------------------------------------------------- HDF5 files


def test_arrays_outside_the_file(tmp_path):
    save(tmp_path / "other.h5", arrays())
    layout = h5py.VirtualLayout((7, 5), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "A1", (7, 5))
    (tmp_path / "raw").write_bytes(bytes(7 * 5 * 8))

    def virtual(file):
        file.create_virtual_dataset("A1", layout)

    def external(file):
        file.create_dataset("A1", (7, 5), "f8", external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)])

    def link(kind):
        return lambda file: file.__setitem__("A1", kind)

    for add, message in (
        (link(h5py.SoftLink("/D1")), "A1 is a link"),
        (link(h5py.ExternalLink("other.h5", "A1")), "A1 is a link"),
        (virtual, "A1 lies in other files"),
        (external, "A1 lies in other files"),
    ):
        path = save(tmp_path / "t.h5", arrays(A1=None))
        with h5py.File(path, "a") as file:
            add(file)
        refused(path, message)


def test_what_is_no_array(tmp_path):
    for content in (h5py.Empty("f8"), "group", np.dtype("f8")):
        path = save(tmp_path / "t.h5", arrays(A1=None))
        with h5py.File(path, "a") as file:
            if isinstance(content, str):
                file.create_group("A1")
            else:
                file["A1"] = content
        refused(path, "A1 is not an array")


def test_numbers_that_were_never_written(tmp_path):
    path = tmp_path / "t.h5"
    for how, message in (
        ({"shape": (10**12, 100)}, r"A0 has 0 bytes, but its shape \(1000000000000, 100\) needs"),
        ({"shape": (10**12, 100), "chunks": (100, 100)}, "A0 has 0 chunks, but .* needs 10000000000"),
        ({"shape": (10**5, 10**5), "chunks": (10**4, 5 * 10**4)}, "A0 has chunks .* of more than 256 MiB"),
    ):
        with h5py.File(path, "w") as file:
            file.create_dataset("A0", dtype="f8", **how)
            file["D0"] = np.ones((2, 1))
        refused(path, message)
    with h5py.File(path, "w") as file:
        file.create_dataset("A0", (10, 2), "f8", chunks=(4, 2))[:8] = 1.0
        file["D0"] = np.ones((10, 1))
    refused(path, "A0 has 2 chunks, but its shape .* needs 3")


# -------------------------------------------------------------------------------------------------------------- writing


def test_what_is_not_written(tmp_path):
    one, two = traces(), traces()[::-1]
    narrow, wide = ([gcref.Trace(np.ones((2, 3), dtype), np.ones((2, 1), dtype))] for dtype in ("f4", "f8"))
    for name, given, error, message in (
        ("t.txt", one, ValueError, "a name that ends in .h5, .hdf5 or .npz"),
        ("t.h5", [one, two], ValueError, "a batch has blocks"),
        ("t.npz", [one, two], ValueError, "blocks"),
        ("t.h5", [], ValueError, "traces has no examples"),
        ("t.npz", lambda: iter([traces(0)]), ValueError, "traces has no examples"),
        ("t.h5", one[0], TypeError, "is a single Trace"),
        ("t.h5", [narrow, wide], ValueError, "but the first has float32"),
        ("t.h5", 5, TypeError, "traces is a int"),
        ("t.h5", [[np.ones((2, 1))]], TypeError, "a Trace is expected"),
    ):
        with pytest.raises(error, match=message):
            write_traces(tmp_path / name, given)
    assert os.listdir(tmp_path) == []


def test_no_file_is_overwritten(path):
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="is not overwritten"):
        write_traces(path, traces())
    assert path.read_text() == "precious"
