"""Figure 5: attention map, attention mask and purified image."""

from collections.abc import Sequence

import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from hetpure.errors import ConfigError
from hetpure.reports.plots import style
from hetpure.studies.finished import FinishedRun, defense_keys
from hetpure.studies.numbers import Measured
from hetpure.studies.panels import show, to_bytes

MAPS = ("attention map", "mask")


@torch.no_grad()
def measure(run: FinishedRun, rows: Sequence[str], images: int = 5, first: int = 0) -> Measured:
    """What happens to some images, adversarial ones where the row has an attack.

    Args:
        run: the run.
        rows: one row with a heterogeneous purifier, or none for the first.
        images: how many are shown.
        first: how many of the subset to leave out before them.
    """
    if first < 0:
        raise ConfigError(f"first: found {first}, accepted is 0 or more")
    (found,) = run.images([run.heterogeneous(rows)], None)
    total = len(found.clean)
    if images < 1 or first + images > total:
        raise ConfigError(
            f"images: found {images} after {first}, accepted are 1 to {total - first}: so many are finished"
        )
    keys = defense_keys(found, 1)
    x = found.clean if found.adversarial is None else found.adversarial
    arrays, shown = {"original": to_bytes(found.clean[first : first + images])}, range(first, first + images)
    if found.adversarial is not None:
        arrays["adversarial"] = to_bytes(x[first : first + images])
    views = [found.model.purifier.views(x[i : i + 1], keys.rows(slice(i, i + 1))) for i in shown]
    for name in views[0]:
        arrays[name] = to_bytes(torch.cat([view[name] for view in views]))
    seen = {"original": found.clean[first : first + images], "purified": torch.cat([v["purified"] for v in views])}
    if found.adversarial is not None:
        seen["adversarial"] = x[first : first + images]
    classes = {name: [run.class_names[int(k)] for k in found.model.classifier(y).argmax(1)] for name, y in seen.items()}
    share = [float(view["mask"].mean()) for view in views]
    (every,) = found.model.prepare(x)
    of_all = every.mean(dim=(1, 2, 3))
    numbers = {
        "row": found.name,
        "label": [run.class_names[int(found.label[i])] for i in shown],
        "classified_as": classes,
        "masked_share": share,
        "masked_share_of_all": {"mean": float(of_all.mean()), "min": float(of_all.min()), "max": float(of_all.max())},
        "n": images,
        "of": total,
    }
    mask = found.settings
    rule = f"tau = {mask['tau']}" if mask["selection"] == "threshold" else f"top {100 * mask['top_fraction']:.3g} %"
    levels = f"t_large = {mask['t_large']} inside, t_small = {mask['t_small']} outside"
    attack = "no attack" if found.adversarial is None else found.attack
    which = f"the first {images}" if first == 0 else f"the {images} after the first {first}"
    caption = (
        f"Attention map, attention mask ({rule}), heterogeneous noise ({levels}) and purified image, row {found.name}, "
        f"{attack}. n = {images} of {total} images, {which}, not chosen. Below each image: how the bare classifier "
        "sees it; purified: the first of the defender's draws, alone. Masks cover "
        f"{100 * of_all.mean():.1f} % of the pixels on average over all {total} ({100 * of_all.min():.1f} to "
        f"{100 * of_all.max():.1f} %)."
    )
    return Measured(numbers, caption, arrays)


def draw(measured: Measured) -> Figure:
    """One image a line."""
    names, numbers = list(measured.arrays), measured.numbers
    count, side = numbers["n"], 7.2 / (len(names) + 0.45)
    figure, drawing = style.sheet(7.2, count * (side + 0.22) + 0.5, measured.caption)
    grid = drawing.subplots(count, len(names), squeeze=False)
    for i, line in enumerate(grid):
        for axes, name in zip(line, names, strict=True):
            cmap = {"attention map": style.MAP}.get(name, "gray")
            show(axes, measured.arrays[name][i], name.replace(" ", "\n", 1) if i == 0 else "", cmap)
            if name in numbers["classified_as"]:
                seen = numbers["classified_as"][name][i]
                right = seen == numbers["label"][i]
                axes.set_xlabel(f"{'✓' if right else '✗'} {seen}", color=style.BLUE if right else style.VERMILLION)
            elif name == "mask":
                axes.set_xlabel(f"{100 * numbers['masked_share'][i]:.1f} %")
        line[0].set_ylabel(numbers["label"][i])
    bar = drawing.colorbar(
        style.shades(Normalize(0, 1)), ax=grid[:, names.index("attention map")], location="bottom", aspect=9, pad=0.01
    )
    bar.set_ticks([0, 1])
    return figure
