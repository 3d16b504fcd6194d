"""Pictures of the guides: `python docs/pictures.py` writes docs/images/{pipeline,interval}.svg, {prompt,vcd}.png
maps.png and the pictures of the gallery.

Their numbers and images are the toolkit's own: a prompt of the shipped model, its answers before and after noise, and
intervals of paired scores. prompt.png needs Chromium (`tests/install_browser.sh`).
"""

import base64
import contextlib
import io
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd
import torch
from PIL import Image as PILImage
from PIL import ImageChops

import icl
from decoding.strategies.vcd import VCD
from experiments.cli.main import main as icl_command
from experiments.report.figure import Figure
from experiments.report.page import find_section
from experiments.results.view_run import view_run
from experiments.stats.pairs import Pairs, paired_test
from icl.edits import DiffusionNoise

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
STEPS = (200, 500, 700, 999)
BLUE, DARK = "#3b6ea5", "#1d3a5c"
PARTS = (
    ("Task Example", "Retriever Context", "Composer Prompt", "Strategy branches", "Model Session"),
    ("Section report", "statistics paired", "Run store", "Metric Sample", "Sampler Generation"),
)
"""Two rows of what works and what it gives; the second row is read from the right."""
TYPES = (
    (
        "Component a_node_of_the_YAML",
        "Arm settings,_over_seeds",
        "Cell one_seed,_in_the_Grid",
        "Example question,_images",
    ),
    ("Session logits_of_a_Model", "Strategy with_its_Traits", "Prompt turns_and_parts", "Context by_a_Retriever"),
    ("Generation an_answer", "Sample scored,_stored", "Run a_directory", "Section of_a_report"),
)
"""Rows are read in turn from the left and from the right."""


def main() -> None:
    """Writes all pictures."""
    (IMAGES / "gallery").mkdir(exist_ok=True)
    (IMAGES / "pipeline.svg").write_text(flow(PARTS), encoding="utf-8")
    (IMAGES / "types.svg").write_text(flow(TYPES), encoding="utf-8")
    interval().save(IMAGES / "interval.svg")
    noise_and_contrast().save(IMAGES / "vcd.png", scale_factor=1.5)
    photograph(prompt_html(), IMAGES / "prompt.png")
    lockstep_costs().save(IMAGES / "gallery" / "contrast_in_vllm.svg")
    learned_accuracies().save(IMAGES / "gallery" / "learned_demonstrations.svg")
    maps()
    for page in ("does_retrieval_help", "labels_or_images", "task_vector"):
        thumbnail(page)


def flow(rows: Sequence[Sequence[str]]) -> str:
    """Boxes with arrows that turn at the end of each row, as SVG that reads on a light and on a dark page."""
    columns, parts = len(rows[0]), []
    width, height = (900 - 34 * (columns - 1)) / columns, 62
    for row, boxes in enumerate(rows):
        for column, box in enumerate(boxes):
            name, words = box.split()
            x, y = 10 + column * (width + 34), 10 + row * 120
            parts.append(
                f'<rect x="{x:g}" y="{y}" width="{width:g}" height="{height}" rx="8" fill="#eef4fb" stroke="#3b6ea5"/>'
                f'<text x="{x + width / 2:g}" y="{y + 26}" class="w">{name}</text>'
                f'<text x="{x + width / 2:g}" y="{y + 47}" class="r">{words.replace("_", " ")}</text>'
            )
            if column:
                ends = (x - 31, x - 3) if row % 2 == 0 else (x - 3, x - 31)
                parts.append(f'<path d="M{ends[0]:g} {y + 31}H{ends[1]:g}" class="a"/>')
        if row:
            turn = 910 - width / 2 if row % 2 else 10 + width / 2
            parts.append(f'<path d="M{turn:g} {y - 120 + height + 3}V{y - 3}" class="a"/>')
    label = ", ".join(box.split()[0] for row in rows for box in row)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 {len(rows) * 120 - 38}" role="img" '
        f'aria-label="{label}">'
        "<style>text{font-family:sans-serif;text-anchor:middle}.w{font-size:16px;font-weight:600;fill:#1d3a5c}"
        ".r{font-size:13px;fill:#4a6a8a}.a{stroke:#8a97a6;stroke-width:2;fill:none;marker-end:url(#m)}</style>"
        '<marker id="m" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="#8a97a6"/></marker>{"".join(parts)}</svg>\n'
    )


def interval() -> alt.LayerChart:
    """Three paired comparisons of right/wrong scores, with the intervals that a report prints."""
    rows = []
    for name, better, worse, equal in (
        ("shown: the interval excludes 0", 34, 8, 158),
        ("not shown: 0 is inside", 22, 16, 162),
        ("too few queries", 3, 2, 15),
    ):
        changes = np.repeat([1.0, -1.0, 0.0], [better, worse, equal])
        pairs = Pairs((changes < 0).astype(float), (changes > 0).astype(float), np.arange(len(changes)))
        result = paired_test(pairs)
        title = f"{name} (n = {len(changes)})"
        rows.append({"comparison": title, "difference": result.difference, "low": result.low, "high": result.high})
    base = alt.Chart(pd.DataFrame(rows)).encode(
        y=alt.Y("comparison:N", sort=None, title=None, axis=alt.Axis(labelLimit=320))
    )
    x = alt.X("low:Q", title="difference in accuracy, 95 % interval", scale=alt.Scale(domain=[-0.4, 0.4]))
    chart_bars = base.mark_rule(strokeWidth=3, color=BLUE).encode(x=x, x2="high:Q")
    points = base.mark_point(filled=True, size=90, color=DARK).encode(x="difference:Q")
    zero = alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(strokeDash=[4, 3], color="#888").encode(x="x:Q")
    return alt.layer(zero, chart_bars, points).properties(width=420, height=110, background="white")


def noise_and_contrast() -> alt.VConcatChart:
    """An image at steps of the noise of `vcd`, what the model answers about it, and what the contrast makes of it."""
    task, model = icl.load_task("easy-vqa", queries=60), icl.load_model("hf", path="tiny")
    model.load()
    prompts = [icl.compose("chat", icl.retrieve("none", task, query, shots=0)) for query in task.queries]
    entropies = torch.distributions.Categorical(logits=model.open(prompts).logits).entropy()
    number = int(entropies.argmax())  # where the model is least sure, a contrast can change something
    prompt = prompts[number]
    image = np.asarray(prompt.images[-1].open().convert("RGB"), dtype=np.float32) / 127.5 - 1
    images, answers = [], []
    for step in STEPS:
        strategy = VCD(noise_step=step)
        clean, noised = logits = model.open(list(strategy.branches(prompt))).logits
        contrast = strategy.combine(logits[:, None], 0)[0]
        title = f"noise step {step}"
        pixels = DiffusionNoise(step).apply_to_pixel_values(torch.from_numpy(image)).clamp(-1, 1).numpy()
        noised_image = PILImage.fromarray(np.uint8((pixels + 1) * 127.5))
        images.append({"step": title, "x": 0, "url": data_uri(noised_image)})
        for name, scores in (("image", clean), ("noised image", noised), ("contrast", contrast)):
            for token in clean.topk(2).indices.tolist():
                row = {"step": title, "from": name, "answer": model.text([token])}
                answers.append(row | {"probability": float(scores.softmax(-1)[token])})
    column = alt.Column("step:N", sort=None, title=None, header=alt.Header(labelFontSize=13))
    x = alt.X("x:Q", scale=alt.Scale(domain=[-1, 1]), axis=None)
    image_row = (
        alt.Chart(pd.DataFrame(images)).mark_image(width=110, height=110).encode(x=x, url="url:N", column=column)
    )
    chart_bars = (
        alt.Chart(pd.DataFrame(answers))
        .mark_bar()
        .encode(
            x=alt.X("probability:Q", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=3)),
            y=alt.Y("answer:N", sort=None, title=None),
            yOffset=alt.YOffset("from:N", sort=["image", "noised image", "contrast"]),
            color=alt.Color("from:N", title=None, sort=["image", "noised image", "contrast"]),
            column=alt.Column("step:N", sort=None, title=None, header=alt.Header(labels=False)),
        )
    )
    row = image_row.properties(width=130, height=110, title=task.queries[number].question)
    chart = alt.vconcat(row, chart_bars.properties(width=130, height=80)).properties(background="white")
    return chart.configure_view(stroke=None).configure_legend(orient="bottom").configure_title(anchor="middle")


def lockstep_costs() -> alt.Chart:
    """Tokens a second of branches inside vLLM against greedy decoding of as many rows, from lab/bench/VLLM.md."""
    text = (ROOT / "lab" / "bench" / "VLLM.md").read_text(encoding="utf-8")
    matches = re.findall(r"^\| lockstep, (\d+) branches: tokens a second.*?\| ([\d.]+) \|", text, re.MULTILINE)
    frame = pd.DataFrame(matches, columns=["branches", "speed"]).astype(float)
    x = alt.X("speed:Q", title="tokens a second / greedy on as many rows", scale=alt.Scale(domain=[0, 1]))
    chart_bars = alt.Chart(frame).mark_bar(color=BLUE).encode(x=x, y=alt.Y("branches:O", title="branches"))
    return chart_bars.properties(width=320, height=110, background="white")


def learned_accuracies() -> alt.Chart:
    """Accuracies of learned demonstrations and of what they are compared with, from the page's table."""
    text = (ROOT / "docs" / "gallery" / "learned_demonstrations.md").read_text(encoding="utf-8")
    head, _, *rows = re.findall(r"^\|(.*)\|$", text[text.index("| accuracy |") :].partition("| calls")[0], re.MULTILINE)
    names, *cells = ([cell.strip(" `") for cell in row.split("|")] for row in (head, *rows))
    frame = pd.DataFrame(cells, columns=names).melt("accuracy", ["random", "knn", "same answer", "learned", "oracle"])
    return (
        alt.Chart(frame.astype({"value": float}))
        .mark_point(filled=True, size=90, opacity=0.9)
        .encode(
            x=alt.X("value:Q", title="accuracy", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("accuracy:N", sort=None, title=None, axis=alt.Axis(labelLimit=320, grid=True)),
            color=alt.Color("variable:N", title=None, sort=None),
            shape=alt.Shape("variable:N", title=None, sort=None),
        )
        .properties(width=320, height=150, background="white")
    )


def thumbnail(page: str) -> None:
    """The figure of the scores of a page's study, which is run as the page says."""
    text = (ROOT / "docs" / "gallery" / f"{page}.md").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, study in re.findall(r"^```yaml\n# (\w+\.yaml)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            Path(name).write_text(study, encoding="utf-8")
        for command in re.findall(r"^    icl ((?:fit|run) .*)", text, re.MULTILINE):
            assert icl_command(command.split()) == 0, command
        (run,) = Path("runs").iterdir()
        figure = find_section(view_run(icl.load_run(run)), "scores").figure
        assert figure is not None
        figure.write(IMAGES / "gallery" / page, ["png"], width=4)


def maps() -> None:
    """Maps of two prompts with the effects of their cuts, as `icl analyze runs/maps image_maps` draws them."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for command in ("run attention/maps", "analyze runs/maps image_maps"):
            assert icl_command(command.split()) == 0, command
        write_maps(find_section(view_run(icl.load_run(Path("runs/maps"))), "image-maps").figure)


def write_maps(figure: Figure | None) -> None:
    """Writes docs/images/maps.png."""
    assert figure is not None
    figure.write(IMAGES / "maps", ["png"])
    image = PILImage.open(IMAGES / "maps.png").convert("RGB")
    image.resize((image.width // 2, image.height // 2)).quantize(64).save(IMAGES / "maps.png", optimize=True)


def data_uri(image: PILImage.Image) -> str:
    """A PNG as the address of an image."""
    stream = io.BytesIO()
    image.resize((110, 110)).save(stream, "PNG")
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def prompt_html() -> str:
    """Two demonstrations with made-up names and a query, as a notebook shows the prompt."""
    task = icl.load_task("binding", ways=2, queries=10)
    context = icl.retrieve("knn", task, task.queries[0], shots=2)
    return icl.compose("chat", context)._repr_html_()


def photograph(html: str, path: Path) -> None:
    """A picture of some HTML, cropped to what is noised_image."""
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / "page.html", Path(folder) / "page.png"
        page.write_text(f'<body style="font-family: sans-serif; margin: 12px">{html}</body>', encoding="utf-8")
        command = [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--window-size=760,700",
            "--hide-scrollbars",
        ]
        subprocess.run([*command, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True)
        image = PILImage.open(shot).convert("RGB")
        box = ImageChops.difference(image, PILImage.new("RGB", image.size, "white")).getbbox()
        assert box is not None, "the page is blank"
        image.crop((0, 0, image.width, box[3] + 12)).save(path)


if __name__ == "__main__":
    main()
