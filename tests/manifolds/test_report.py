"""Numbers, sentences, tables and figures of a report that is made by hand."""

import dataclasses
import io
import json

import numpy as np
import pytest

from keras_lgg.manifolds import LatentManifold, Level, ManifoldReport

pytestmark = pytest.mark.once
SIGMAS = (0.0, 0.1, 0.5)
SHAPE = (3, 4, 20)  # of largest ranks 3, 4 and 11: 20 channels at 12 positions
FULL = [3, 4, 11]
RNG = np.random.default_rng(0)
NAN = np.nan


def level(sigma=0.0, n=6, **changes):
    """One of n latents, in one stratum, and of which nothing else is special."""
    values = {
        "sigma": sigma,
        "ranks": np.array([FULL] * n),
        "coarse_ranks": np.array([FULL] * n),
        "spectra": tuple(np.array([[4.0, 1.0, 0.5][: k + 1]] * n) for k in range(3)),
        "dimension": 2,
        "angles": np.array([20.0, 10.0]) * sigma,
        "displacement": 2 * sigma,
        "curve_lengths": np.full((n, 3), sigma),
        "psnr": np.linspace(20, 21, n) - 10 * sigma,
    }
    return Level(**{**values, **changes})


def manifold(name="CAE", levels=None, **changes):
    levels = [level(sigma) for sigma in SIGMAS] if levels is None else levels
    values = {
        "name": name,
        "latent": "code",
        "shape": SHAPE,
        "levels": tuple(levels),
        "weights": (1.0, 2.0, 0.5),
        "gamma": None,
        "null_angle": 33.0,
        "coordinates": RNG.normal(size=(len(levels), len(levels[0].ranks), 5)),
        "reconstructions": RNG.random((len(levels), 4, 8, 6, 1)),
        "interpolations": RNG.random((2, 5, 8, 6, 1)),
    }
    return LatentManifold(**{**values, **changes})


def blind(name, **changes):
    """Of an encoder alone."""
    levels = [level(sigma, psnr=None) for sigma in SIGMAS]
    return manifold(name, levels, reconstructions=None, interpolations=None, **changes)


def report(*manifolds, controls=(), not_cloned=None, channels=1):
    return ManifoldReport(
        config={"sigmas": list(SIGMAS), "models": [each.name for each in manifolds]},
        manifolds=manifolds,
        controls=tuple(controls),
        images=RNG.random((len(SIGMAS), 4, 8, 6, channels)),
        not_cloned=not_cloned or {},
    )


def ranks(*triples_and_counts):
    """Rows of ranks, each so many times."""
    return np.array([triple for triple, count in triples_and_counts for _ in range(count)])


class TestLevel:
    RANKS = ranks(([2, 4, 9], 2), ([3, 4, 11], 3), ([3, 3, 10], 1))

    def test_ranks(self):
        coarse = ranks(([1, 2, 3], 5), ([2, 2, 5], 1))
        found = level(ranks=self.RANKS, coarse_ranks=coarse).to_dict()
        assert found["ranks"] == [
            {"min": 2, "max": 3, "mode": 3, "histogram": {"2": 2, "3": 4}},
            {"min": 3, "max": 4, "mode": 4, "histogram": {"3": 1, "4": 5}},
            {"min": 9, "max": 11, "mode": 11, "histogram": {"9": 2, "10": 1, "11": 3}},
        ]
        assert [list(each["histogram"]) for each in found["ranks"]][2] == ["9", "10", "11"]
        assert found["ranks_coarse"] == [
            {"min": 1, "max": 2, "mode": 1, "histogram": {"1": 5, "2": 1}},
            {"min": 2, "max": 2, "mode": 2, "histogram": {"2": 6}},
            {"min": 3, "max": 5, "mode": 3, "histogram": {"3": 5, "5": 1}},
        ]

    def test_strata(self):
        found = level(ranks=self.RANKS)
        assert found.strata == {(3, 4, 11): 3, (2, 4, 9): 2, (3, 3, 10): 1}
        assert list(found.to_dict()["strata"].items()) == [
            ("(3, 4, 11)", 3),
            ("(2, 4, 9)", 2),
            ("(3, 3, 10)", 1),
        ]

    def test_subspace(self):
        found = level(sigma=0.3, dimension=4, angles=np.array([50.0, 20.0, 5.0])).to_dict()
        assert found["sigma"] == 0.3
        assert found["dimension"] == 4
        assert found["saturation"] == 4 / 5
        assert found["angles"] == [50, 20, 5]
        assert [found[f"{which}_angle"] for which in ("mean", "max", "min")] == [25, 50, 5]
        assert found["displacement"] == 0.6

    def test_curve_lengths_over_those_that_compare(self):
        lengths = np.full((6, 3), NAN)
        lengths[[0, 1, 3], 0] = [1, 2, 6]
        lengths[:, 2] = np.arange(6)
        found = level(curve_lengths=lengths).to_dict()
        assert found["curve_lengths"] == [3, None, 2.5]
        assert found["curve_share"] == [0.5, 0, 1]

    def test_psnr(self):
        found = level(psnr=np.array([10.0, 20, 30, 20, 20, 20])).to_dict()
        assert found["psnr"] == 20
        assert found["psnr_std"] == pytest.approx(np.sqrt(200 / 5))
        without = level(psnr=None).to_dict()
        assert without["psnr"] is without["psnr_std"] is None

    def test_spectra(self):
        """Of each latent relative to its largest; the median of 0, 0.25, 0.5, ... 1."""
        first = np.array([[0, 0], [8, 2], [8, 4], [100, 100]], "float64")
        spectra = (first, 3 * first, first[:, :1])
        found = level(n=4, spectra=spectra).to_dict()["median_spectra"]
        assert found == [[1, 0.375], [1, 0.375], [1]]

    def test_what_is_not_finite_is_none(self):
        nothing = level(
            dimension=0,
            angles=np.zeros(0),
            psnr=np.full(6, np.inf),
            curve_lengths=np.full((6, 3), NAN),
        ).to_dict()
        assert nothing["angles"] == []
        for key in ("mean_angle", "max_angle", "min_angle", "psnr", "psnr_std"):
            assert nothing[key] is None
        assert nothing["curve_lengths"] == [None] * 3
        one = level(psnr=np.array([np.inf, 20, 20, 20, 20, 20])).to_dict()
        assert one["psnr"] is one["psnr_std"] is None
        json.dumps([nothing, one], allow_nan=False)


class TestManifold:
    def of(self, *counts_off):
        """With so many of a hundred latents of each level off the stratum of the others."""
        return manifold(
            levels=[
                level(sigma, n=100, ranks=ranks((FULL, 100 - off), ([2, 4, 9], off)))
                for sigma, off in zip(SIGMAS, counts_off, strict=False)
            ]
        )

    @pytest.mark.parametrize(
        ("off", "expected"),
        [
            ((0, 0), False),
            ((1, 0), False),
            ((0, 1), False),
            ((1, 1), True),  # one in a hundred of all
            ((2, 0), True),
            ((1,), True),
            ((0,), False),
            ((99, 99), True),
            ((100, 99), False),
            ((100, 100), False),
        ],
    )
    def test_stratified_from_one_percent_on(self, off, expected):
        found = self.of(*off)
        assert found.is_stratified is expected
        assert found.to_dict()["is_stratified"] is expected

    def test_many_small_strata(self):
        """Two strata of one latent each count together."""
        rows = ranks((FULL, 98), ([2, 4, 9], 1), ([3, 4, 8], 1))
        assert manifold(levels=[level(n=100, ranks=rows)]).is_stratified

    def test_pooled_strata(self):
        found = self.of(10, 20)
        assert found.strata == {(3, 4, 11): 170, (2, 4, 9): 30}
        assert found.to_dict()["strata"] == {"(3, 4, 11)": 170, "(2, 4, 9)": 30}
        most = self.of(80, 90).to_dict()["strata"]
        assert list(most.items()) == [("(2, 4, 9)", 170), ("(3, 4, 11)", 30)]

    def test_types(self):
        assert manifold().types == ("SPD", "SPD", "SPSD")
        assert self.of(0, 1).types == self.of(1, 0).types == ("SPSD", "SPD", "SPSD")
        square = manifold(shape=(3, 4, 11))
        assert square.types == ("SPD", "SPD", "SPD")

    def test_to_dict(self):
        each = manifold(gamma=0.25, latent="mean")
        found = each.to_dict()
        assert {key: value for key, value in found.items() if key != "levels"} == {
            "name": "CAE",
            "latent": "mean",
            "shape": [3, 4, 20],
            "largest_ranks": [3, 4, 11],
            "types": ["SPD", "SPD", "SPSD"],
            "is_stratified": False,
            "strata": {"(3, 4, 11)": 18},
            "weights": [1.0, 2.0, 0.5],
            "gamma": 0.25,
            "null_angle": 33.0,
        }
        assert found["levels"] == [each.to_dict() for each in each.levels]
        assert manifold(null_angle=NAN).to_dict()["null_angle"] is None


def section(text, title):
    """The lines below a title of the Markdown."""
    parts = text.split(f"**{title}**")
    assert len(parts) == 2
    return [line for line in parts[1].split("\n\n**")[0].splitlines() if line][
        1 if "(" in parts[1].splitlines()[0] else 0 :
    ]


def table(text, title):
    lines = [line.strip("| ").split(" | ") for line in section(text, title)]
    header, rule, *rows = lines
    assert {len(row) for row in rows} == {len(header)} == {len(rule)}
    return [dict(zip(header, row, strict=True)) for row in rows]


class TestVerdict:
    def of(self, each):
        return section(report(each).to_markdown(), "Verdict")

    def test_one_stratum(self):
        levels = [level(), level(0.5, angles=np.array([60.0, 30.6]), psnr=np.full(6, 12.34))]
        assert self.of(manifold("V", levels, null_angle=33.4)) == [
            "* V: **one stratum**, (3, 4, 11); SPD(3) x SPD(4) x SPSD(20). At sigma 0.5 the "
            "subspace of its latents stands at a mean angle of 45° to the clean one (halves of "
            "the clean latents: 33°), and the PSNR goes from 20.5 to 12.3 dB."
        ]

    def test_stratified(self):
        clean = level(ranks=ranks((FULL, 4), ([2, 4, 9], 2)))
        noisy = level(0.4, ranks=ranks(([3, 3, 11], 5), ([2, 4, 9], 1)), psnr=None)
        (text,) = self.of(manifold(levels=[clean, noisy]))
        assert "* CAE: **stratified**, 2 strata on clean images, 3 in all; SPSD(3) x" in text
        assert "PSNR" not in text
        assert "At sigma 0.4" in text

    def test_nearly_one_stratum(self):
        """Which of the two is named: the commoner."""
        rows = ranks(([2, 4, 9], 1), (FULL, 199))
        (text,) = self.of(manifold(levels=[level(n=200, ranks=rows)]))
        assert "**one stratum**, (3, 4, 11)" in text
        assert "At sigma" not in text

    def test_a_line_for_each(self):
        lines = section(report(manifold("A"), manifold("B")).to_markdown(), "Verdict")
        assert [line[:5] for line in lines] == ["* A: ", "* B: "]


class TestCaveats:
    def test_of_every_report(self):
        found = report(manifold()).caveats
        assert len(found) == 2
        assert "blank background" in found[0]
        assert "no metric" in found[1]

    def test_sampled_latents(self):
        sample = manifold("V", latent="sample")
        mean = manifold(
            "V, mean",
            [level(ranks=ranks(([3, 4, 8], 3), (FULL, 3))), level(0.5, ranks=[[2, 4, 10]] * 6)],
            latent="mean",
        )
        text = report(sample, controls=[mean, manifold("W, mean", latent="mean")]).caveats[0]
        assert text.startswith("V: nearly every latent that is sampled")
        assert "full rank, whatever was learnt" in text
        assert "Its mean code is stratified: 3 strata, ranks 2–3, 4, 8–11." in text
        text = report(sample, controls=[manifold("V, mean", latent="mean")]).caveats[0]
        assert "Its mean code has one stratum: 1 strata, ranks 3, 4, 11." in text
        alone = report(sample).caveats[0]
        assert "whatever was learnt." in alone
        assert "mean code" not in alone
        fresh = report(manifold("V, fresh noise", latent="fresh_eps")).caveats[0]
        assert fresh.startswith("V, fresh noise: nearly every latent that is sampled")
        for latent in ("code", "mean"):
            assert len(report(manifold("V", latent=latent)).caveats) == 2

    def test_fresh_samples(self):
        """The mean code that they are compared with is the same control."""
        mean = manifold("V, mean", [level(ranks=ranks((FULL, 5), ([3, 4, 8], 1)))], latent="mean")
        fresh = manifold("V, fresh noise", latent="fresh_eps")
        text = report(fresh, controls=[manifold("V", latent="sample"), mean]).caveats[0]
        assert "2 strata, ranks 3, 4, 8–11" in text

    def test_untrained(self):
        clean = level(ranks=ranks((FULL, 3), ([2, 3, 5], 3)))
        trained = manifold("A", [clean, level(0.5, ranks=ranks(([1, 1, 1], 6)))])
        control = manifold("A, untrained", [level(ranks=ranks((FULL, 4), ([3, 4, 7], 2)))])
        found = report(manifold("B"), trained, controls=[control]).caveats
        assert found[0] == (
            "A: on clean images an untrained encoder has ranks 3, 4, 7–11 (strata: 2), the "
            "trained one 2–3, 3–4, 5–11 (strata: 2). What both have comes from the images and "
            "the architecture, not from training."
        )
        assert len(found) == 3

    def test_untrained_in_the_name_of_a_model(self):
        name = "A, untrained x"
        found = report(manifold(name), controls=[manifold(f"{name}, untrained")]).caveats
        assert found[0].startswith(f"{name}: on clean images")

    def test_untrained_mean(self):
        """It is compared with the mean of the trained, a control itself."""
        mean = manifold("V, mean", [level(ranks=ranks((FULL, 5), ([1, 1, 1], 1)))], latent="mean")
        untrained = manifold("V, mean, untrained", [level()], latent="mean")
        found = report(manifold("V", latent="sample"), controls=[mean, untrained]).caveats
        assert (
            "V, mean: on clean images an untrained encoder has ranks 3, 4, 11 (strata: 1)"
            in found[1]
        )
        assert "the trained one 1–3, 1–4, 1–11 (strata: 2)." in found[1]

    def test_no_copy(self):
        found = report(manifold(), not_cloned={"CAE": "it is mine"}).caveats
        assert found[0] == "CAE: no untrained copy could be made to compare with (it is mine)."

    def test_a_long_reason(self):
        """Keras writes whole paragraphs, which would end the list of the Markdown."""
        reason = "\nNo config.\n\nExample:\n\n```\nx\n```\n"
        found = section(report(manifold(), not_cloned={"CAE": reason}).to_markdown(), "Caveats")
        assert found[0].startswith("* CAE: no untrained copy could be made")
        assert "No config." in found[0]
        assert all(line.startswith("* ") for line in found)

    @pytest.mark.parametrize(("dimension", "expected"), [(4, False), (5, True)])
    def test_saturation(self, dimension, expected):
        """Of six latents: four fifths are not too much yet."""
        levels = [level(), level(0.1, dimension=dimension), level(0.5, dimension=3)]
        found = [text for text in report(manifold("A", levels)).caveats if "sigma" in text]
        assert len(found) == expected
        if expected:
            assert "A: at sigma 0.1 a subspace takes 5 of 5 possible dimensions" in found[0]
            assert "Take more images, or a smaller energy." in found[0]


class TestReport:
    FOUND = report(
        manifold("A", [level(s, angles=np.zeros(0)) for s in SIGMAS], null_angle=NAN),
        blind("B"),
        controls=[manifold("A, untrained", [level(psnr=np.full(6, np.inf))])],
    )

    def test_to_dict(self):
        found = self.FOUND.to_dict()
        assert list(found) == ["config", "manifolds", "controls", "caveats"]
        assert found["config"] == self.FOUND.config
        assert found["manifolds"] == [each.to_dict() for each in self.FOUND.manifolds]
        assert found["controls"] == [each.to_dict() for each in self.FOUND.controls]
        assert found["caveats"] == self.FOUND.caveats

    def test_to_json(self):
        text = self.FOUND.to_json()
        assert json.loads(text) == self.FOUND.to_dict()
        assert "NaN" not in text
        assert "Infinity" not in text
        with pytest.raises(ValueError, match="JSON"):
            ManifoldReport({"kappa": NAN}, (), (), np.zeros(0), {}).to_json()

    def test_by_name(self):
        assert self.FOUND["B"] is self.FOUND.manifolds[1]
        assert self.FOUND["A, untrained"] is self.FOUND.controls[0]
        with pytest.raises(KeyError, match=r"Expected one of \['A', 'B', 'A, untrained'\].*'C'"):
            self.FOUND["C"]

    def test_printed(self, capsys):
        print(self.FOUND)
        assert capsys.readouterr().out == self.FOUND.to_markdown() + "\n"

    def test_sections(self):
        text = self.FOUND.to_markdown()
        titles = [line for line in text.splitlines() if line.startswith("**")]
        assert [title.split("**")[1] for title in titles] == [
            "Verdict",
            "Caveats",
            "Ranks",
            "Under noise",
        ]
        assert section(text, "Caveats") == [f"* {each}" for each in self.FOUND.caveats]
        # Markdown wants an empty line before a list and a table.
        for title in titles:
            assert f"{title}\n\n" in text


class TestTables:
    def test_a_row_for_each_latent_and_level(self):
        text = TestReport.FOUND.to_markdown()
        expected = [
            *[(name, f"{sigma:g}") for name in "AB" for sigma in SIGMAS],
            ("A, untrained", "0"),
        ]
        for title in ("Ranks", "Under noise"):
            assert [(row["latent"], row["sigma"]) for row in table(text, title)] == expected

    def test_ranks(self):
        rows = ranks((FULL, 3), ([2, 4, 9], 2), ([3, 3, 10], 1))
        coarse = ranks(([1, 2, 3], 5), ([2, 2, 5], 1))
        text = report(manifold("A", [level(ranks=rows, coarse_ranks=coarse)])).to_markdown()
        assert table(text, "Ranks") == [
            {
                "latent": "A",
                "sigma": "0",
                "S1": "2–3 (3)",
                "S2": "3–4 (4)",
                "S3": "9–11 (11)",
                "strata": "3",
                "S1, S2, S3 at 1e-3": "1–2, 2, 3–5",
            }
        ]

    def test_bars_in_names(self):
        lines = report(manifold("A|B")).to_markdown().splitlines()
        assert any(line.startswith(r"| A\|B | 0 |") for line in lines)

    def test_noise(self):
        lengths = np.full((6, 3), NAN)
        lengths[:2, 0] = [1, 2]
        lengths[:, 2] = 0.128
        levels = [
            level(
                0.05,
                dimension=3,
                angles=np.array([50.0, 20.26, 5.4]),
                displacement=1.239,
                curve_lengths=lengths,
                psnr=np.array([10.0, 20, 30, 20, 20, 20]),
            ),
            level(0.5, angles=np.zeros(0), psnr=None, dimension=0),
        ]
        first, second = table(report(manifold("A", levels)).to_markdown(), "Under noise")
        assert first == {
            "latent": "A",
            "sigma": "0.05",
            "dimension": "3",
            "saturation": "0.60",
            "angle, mean (°)": "25.2",
            "min to max (°)": "5 to 50",
            "displacement": "1.24",
            "curve S1, S2, S3": "1.50, –, 0.13",
            "PSNR (dB)": "20.0 ± 6.3",
        }
        nothing = ("angle, mean (°)", "min to max (°)", "PSNR (dB)")
        assert [second[key] for key in nothing] == ["–"] * 3
        assert second["dimension"] == "0"


PLOTS = ("ranks", "spectra", "disturbance", "embedding", "reconstructions", "interpolations")


def plot(found, name, **options):
    return getattr(found, f"plot_{name}")(**options)


def offsets(collection):
    return np.asarray(collection.get_offsets())


def points_of(axis):
    """What was scattered, without what was filled."""
    return [c for c in axis.collections if type(c).__name__ == "PathCollection"]


def filled(axis):
    """The corners of each filled band, as a set."""
    bands = [c for c in axis.collections if type(c).__name__ != "PathCollection"]
    return [{tuple(np.round(v, 6)) for v in band.get_paths()[0].vertices} for band in bands]


class TestPlots:
    @pytest.fixture(autouse=True)
    def matplotlib(self):
        return pytest.importorskip("matplotlib", reason="needs the extra plots")

    def two(self, **changes):
        rows = [
            ranks((FULL, 3), ([2, 4, 9], 2), ([3, 3, 10], 1)),
            ranks(([1, 4, 11], 6)),
            ranks((FULL, 5), ([2, 3, 11], 1)),
        ]
        levels = [
            level(
                sigma,
                ranks=each,
                dimension=2 + i,
                angles=np.array([30.0, 20, 4]) * i,
                psnr=np.array([10.0, 20, 30, 20, 20, 20]) - i,
                spectra=(
                    np.array([[4, 2, 0.0]] * 4 + [[1, 1, 0.1]] * 2) + i,
                    np.ones((6, 25)),
                    np.array([[2, 0.5]] * 6),
                ),
            )
            for i, (sigma, each) in enumerate(zip(SIGMAS, rows, strict=True))
        ]
        return report(manifold("A", levels, null_angle=41.0), manifold("B"), **changes)

    @pytest.mark.parametrize("name", PLOTS)
    def test_figures_that_can_be_saved(self, name, matplotlib):
        if name == "embedding":
            pytest.importorskip("sklearn", reason="needs the extra manifolds")
        import matplotlib.pyplot as plt
        from matplotlib.figure import Figure

        before, windows = dict(matplotlib.rcParams), plt.get_fignums()
        with matplotlib.rc_context({"font.size": 20, "axes.spines.top": True}):
            own = dict(matplotlib.rcParams)
            figure = plot(self.two(), name)
            assert dict(matplotlib.rcParams) == own
        assert dict(matplotlib.rcParams) == before
        assert type(figure) is Figure
        assert plt.get_fignums() == windows
        for axis in figure.axes:
            assert axis.title.get_fontsize() < 12
            assert not axis.spines["top"].get_visible()
        figure.savefig(file := io.BytesIO(), dpi=40)
        assert file.getvalue().startswith(b"\x89PNG")

    def test_ranks(self):
        found = self.two()
        axes = np.reshape(plot(found, "ranks").axes, (2, 3))
        for row, each in zip(axes, found.manifolds, strict=True):
            for k, axis in enumerate(row):
                for level_, dots in zip(each.levels, points_of(axis), strict=True):
                    histogram = level_.to_dict()["ranks"][k]["histogram"]
                    expected = [(level_.sigma, int(rank)) for rank in histogram]
                    np.testing.assert_allclose(offsets(dots), expected)
                    shares = (dots.get_sizes() - 2) / 40
                    np.testing.assert_allclose(shares, np.array([*histogram.values()]) / 6)
                (band,) = filled(axis)
                assert band >= {
                    (level_.sigma, edge(level_.ranks[:, k]))
                    for level_ in each.levels
                    for edge in (min, max)
                }
                (line,) = axis.lines
                assert line.get_linestyle() == "--"
                np.testing.assert_array_equal(line.get_ydata(), each.largest_ranks[k])
                low, high = axis.get_ylim()
                assert low < min(level_.ranks[:, k].min() for level_ in each.levels)
                assert high > each.largest_ranks[k]
                assert f"rank of S{k + 1}" in axis.get_ylabel()
            assert each.name in row[0].get_ylabel()
            assert row[1].get_title() == f"{each.name}, latent 3 x 4 x 20"
        assert all("noise" in axis.get_xlabel() for axis in axes[1])

    def test_spectra(self):
        found = self.two()
        axes = plot(found, "spectra").axes
        for k, axis in enumerate(axes):
            assert axis.get_yscale() == "log"
            assert axis.get_title() == f"S{k + 1}"
            assert len({line.get_color() for line in axis.lines}) == 2
            lines = iter(axis.lines)
            for each in found.manifolds:
                for which, style, label in ((0, "-", "clean"), (-1, "--", "noise 0.5")):
                    line = next(lines)
                    expected = np.array(each.levels[which].to_dict()["median_spectra"][k])
                    expected[expected == 0] = NAN  # which a logarithm cannot show
                    np.testing.assert_array_equal(line.get_ydata(), expected)
                    np.testing.assert_array_equal(line.get_xdata(), np.arange(1, len(expected) + 1))
                    assert line.get_linestyle() == style
                    assert line.get_label() == f"{each.name}, {label}"
            assert next(lines, None) is None
        assert np.isnan(axes[0].lines[0].get_ydata()[2])
        texts = [text.get_text() for text in axes[0].get_legend().get_texts()]
        assert texts == ["A, clean", "A, noise 0.5", "B, clean", "B, noise 0.5"]

    def test_disturbance(self):
        found = self.two()
        figure = plot(found, "disturbance")
        psnr, dimension, angle = figure.axes
        numbers = [[each.to_dict() for each in m.levels] for m in found.manifolds]
        for i, levels in enumerate(numbers):
            for line, key in (
                (psnr.lines[i], "psnr"),
                (dimension.lines[i], "dimension"),
                (angle.lines[3 * i], "mean_angle"),
                (angle.lines[3 * i + 1], "max_angle"),
            ):
                np.testing.assert_array_equal(line.get_xdata(), SIGMAS)
                np.testing.assert_allclose(line.get_ydata(), [each[key] for each in levels])
            mean, dotted, dashed = angle.lines[3 * i : 3 * i + 3]
            styles = [line.get_linestyle() for line in (mean, dotted, dashed)]
            assert styles == ["-", ":", "--"]
            np.testing.assert_array_equal(dashed.get_ydata(), found.manifolds[i].null_angle)
            assert filled(psnr)[i] >= {
                tuple(np.round((each["sigma"], each["psnr"] + sign * each["psnr_std"]), 6))
                for each in levels
                for sign in (-1, 1)
            }
            lines = (psnr.lines[i], dimension.lines[i], mean, dotted, dashed)
            assert len({line.get_color() for line in lines}) == 1
        assert len(psnr.lines) == len(dimension.lines) == 2
        # Three of each, and three without data for the legend.
        assert all(len(line.get_xdata()) == 0 for line in angle.lines[6:])
        assert psnr.lines[0].get_color() != psnr.lines[1].get_color()
        legends = [[text.get_text() for text in each.get_texts()] for each in figure.legends]
        assert legends == [["A", "B"], ["mean", "largest", "halves of the clean latents"]]
        assert [axis.get_title() for axis in figure.axes] == [
            "Reconstruction",
            "Subspace of the latents",
            "Angle to the clean subspace",
        ]

    def test_disturbance_without_angles(self):
        levels = [level(s, angles=np.zeros(0), dimension=0) for s in SIGMAS]
        figure = plot(report(manifold(levels=levels, null_angle=NAN)), "disturbance")
        assert np.isnan(figure.axes[2].lines[0].get_ydata()).all()
        figure.savefig(io.BytesIO(), dpi=40)

    def test_embedding(self):
        pytest.importorskip("sklearn", reason="needs the extra manifolds")
        coordinates = RNG.normal(size=(3, 6, 5))
        coordinates[-1] += 100
        coordinates[1] = coordinates[0] + 0.1  # a level that is not shown
        found = report(manifold("A", coordinates=coordinates))
        (axis,) = plot(found, "embedding", seed=1).axes
        assert axis.get_title() == "A"
        assert [text.get_text() for text in axis.get_legend().get_texts()] == ["clean", "noise 0.5"]
        clean, noisy = (offsets(dots) for dots in points_of(axis))
        assert clean.shape == noisy.shape == (6, 2)
        own = np.linalg.norm(clean[:, None] - clean, axis=-1).max()
        assert np.linalg.norm(clean[:, None] - noisy, axis=-1).min() > own

        def drawn(**options):
            return offsets(points_of(plot(found, "embedding", **options).axes[0])[0])

        np.testing.assert_array_equal(drawn(seed=1), clean)
        default = drawn()
        np.testing.assert_array_equal(drawn(seed=0), default)
        assert np.any(default != clean)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_reconstructions(self, channels):
        decoded = RNG.random((3, 4, 8, 6, channels)) * 1.2 - 0.1
        found = report(manifold("A", reconstructions=decoded), blind("E"), channels=channels)
        axes = plot(found, "reconstructions").axes
        assert [axis.get_title(loc="left") for axis in axes] == ["clean", "noise 0.1", "noise 0.5"]
        for level_, axis in enumerate(axes):
            (picture,) = axis.images
            shown = np.reshape(picture.get_array(), (2, 8, 4, 6, channels)).swapaxes(1, 2)
            np.testing.assert_allclose(shown[0], found.images[level_])
            np.testing.assert_allclose(shown[1], np.clip(decoded[level_], 0, 1))
            assert picture.get_clim() == (0, 1)
            assert [text.get_text() for text in axis.get_yticklabels()] == ["input", "A"]
            np.testing.assert_allclose(axis.get_yticks(), [4, 12])
        if channels == 1:
            assert axes[0].images[0].get_cmap().name == "gray"

    def test_of_some_levels(self):
        """The first, the one in the middle, and the last."""
        sigmas = [0, 0.1, 0.2, 0.3, 0.4, 0.5]
        each = manifold(levels=[level(s) for s in sigmas])
        images = 0.3 + 0.4 * RNG.random((6, 4, 8, 6, 1))
        each = dataclasses.replace(each, reconstructions=images)
        found = ManifoldReport({"sigmas": sigmas}, (each,), (), images, {})
        axes = plot(found, "reconstructions").axes
        assert [axis.get_title(loc="left") for axis in axes] == ["clean", "noise 0.3", "noise 0.5"]
        assert axes[1].images[0].get_clim() == (0, 1)  # gray is gray
        shown = axes[1].images[0].get_array()
        np.testing.assert_allclose(shown[:8, :6], found.images[3, 0, ..., 0])
        alone = ManifoldReport(
            {"sigmas": [0]}, (manifold(levels=[level()]),), (), found.images[:1], {}
        )
        assert len(plot(alone, "reconstructions").axes) == 1

    def test_interpolations(self):
        found = report(manifold("A"), blind("E"), manifold("B"))
        axes = plot(found, "interpolations").axes
        assert [axis.get_title() for axis in axes] == ["A", "B"]
        for axis, name in zip(axes, "AB", strict=True):
            shown = np.reshape(axis.images[0].get_array(), (2, 8, 5, 6, 1)).swapaxes(1, 2)
            np.testing.assert_allclose(shown, found[name].interpolations)

    def test_encoders_alone(self):
        found = report(blind("E"), blind("F"))
        for name in ("reconstructions", "interpolations"):
            with pytest.raises(ValueError, match=r"Received: encoders alone. Pass pairs \(encoder"):
                plot(found, name)
        psnr, dimension, _ = plot(found, "disturbance").axes
        assert len(psnr.lines) == len(filled(psnr)) == 0
        assert len(dimension.lines) == 2
        assert len(plot(found, "ranks").axes) == 6
        assert len(plot(found, "spectra").axes[0].lines) == 4
        mixed = report(blind("E"), manifold("A"))
        (line,) = plot(mixed, "disturbance").axes[0].lines
        np.testing.assert_allclose(line.get_ydata(), [20.5, 19.5, 15.5])

    def test_a_decoder_that_loses_nothing(self):
        """Its PSNR is infinite, and drawn nowhere, without a warning."""
        levels = [level(psnr=np.full(6, np.inf)), level(0.1), level(0.5)]
        figure = plot(report(manifold("A", levels)), "disturbance")
        figure.savefig(io.BytesIO(), dpi=40)

    def test_many_models(self):
        """Colours may come again; no model is left out."""
        found = report(*(manifold(name) for name in "ABCDEFGHI"))
        assert len(plot(found, "disturbance").axes[1].lines) == 9
        assert len(plot(found, "spectra").axes[0].lines) == 18

    def test_a_missing_extra(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
        with pytest.raises(ImportError, match=r"matplotlib.*keras_lgg\[plots\]"):
            plot(report(manifold()), "ranks")

    def test_no_sklearn(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "sklearn.manifold", None)
        with pytest.raises(ImportError, match=r"sklearn.manifold.*keras_lgg\[manifolds\]"):
            plot(report(manifold()), "embedding")
