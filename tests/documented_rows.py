"""Rows of published data sets with the columns and types of their documentation: a card, released code, or lmms-eval.

Presets give the place and the splits alone, so one that names another column, or expects another type, differs.
"""

import csv
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from PIL import Image as PILImage

from icl import hide_datasets_progress
from icl.tasks.presets import PRESETS

Row = dict[str, Any]
ROWS = 32


def painted(i: int) -> PILImage.Image:
    """An image that no other number has."""
    return PILImage.new("RGB", (24, 24), ((37 * i) % 256, (91 * i) % 256, (17 * i) % 256))


def _annotators(i: int) -> list[str]:
    return ["red"] * 7 + [f"blue {i}"] * 3


def _caption_order(i: int) -> Row:
    caption = f"a red dog number {i} on a mat"
    orders = (caption.replace("dog", "mat"), "on a a", "red a dog", "on a mat a red dog")
    return {"images": painted(i), "correct_caption": caption,
            **{f"hard_text_{k}": f"{text} {i}" for k, text in enumerate(orders, 1)}}  # fmt: skip


def _yes_no(i: int, **answers: Any) -> Row:
    return {"question": f"Is there a dog {i}?", "answer": ("yes", "no")[i % 2], "image": painted(i // 2), **answers}


def _multi_image(i: int, count: int, **more: Any) -> Row:
    return {**{f"image_{k}": painted(i) if k == 1 else None for k in range(1, count + 1)}, **more}


def _knowledge(i: int, **more: Any) -> Row:
    return {"question_id": f"q_{i}", "question": "When was it built?", "instruction": "Answer:", "answers": ["1912"],
            "gold_answer": "1912", "pos_item_ids": ["p1"], "pos_item_contents": ["text"], **more}  # fmt: skip


HUB: Mapping[str, Callable[[int], Row]] = {
    "a_okvqa": lambda i: {
        "image": painted(i), "question_id": f"id{i}", "question": "Who?", "choices": ["a man", "a dog", "a cat", "it"],
        "correct_choice_idx": i % 4, "direct_answers": "['man']", "difficult_direct_answer": False,
        "rationales": ["because", "as", "since"]},
    "aro_coco_order": _caption_order,
    "aro_flickr_order": _caption_order,
    "cmmmu": lambda i: _multi_image(
        i, 5, id=i, type="选择", source_type="网站", source="x", question="哪个?", answer="ABCD"[i % 4], analysis=None,
        option1="甲", option2="乙", option3="丙", option4="丁", difficulty_level="easy", category="艺术与设计",
        subcategory="艺术", subfield="['x']", img_type="['y']"),
    "coco_captions": lambda i: {
        "question_id": f"{i}.jpg", "image": painted(i), "question": "Describe.", "answer": ["a dog", "one dog"],
        "id": i, "license": 1, "file_name": f"{i}.jpg", "coco_url": "http://x", "height": 24, "width": 24,
        "date_captured": "x"},
    "encyclopedic_vqa": lambda i: _knowledge(
        i, question_type="automatic", img_path=f"inat/{i}.jpg", img_id=f"e{i}", image_id=f"e{i}"),
    "flickr30k": lambda i: {
        "image": painted(i), "caption": ["a dog", "one dog"], "sentids": ["0", "1"], "img_id": str(i),
        "filename": f"{i}.jpg"},
    "hallusion_bench": lambda i: {
        "category": "VD", "subcategory": "illusion", "visual_input": "1", "set_id": str(i // 4),
        "figure_id": str(i % 2), "sample_note": "x", "question_id": str(i // 2 % 2), "question": "Is it?",
        "gt_answer_details": "It is.", "gt_answer": str(i % 2), "filename": f"{i}.png", "image": painted(i)},
    "infoseek_open": lambda i: _knowledge(
        i, question_type="String", data_split="val_unseen_entity", image_id=f"oven_{i:08d}", img_id=f"oven_{i:08d}"),
    "mathvista": lambda i: {
        "pid": str(i), "question": "How much?", "image": f"images/{i}.jpg", "decoded_image": painted(i),
        "choices": ["Yes", "No"] if i % 2 else None, "unit": None, "precision": None if i % 2 else 1.0,
        "answer": "No" if i % 2 else "1.2", "question_type": "multi_choice" if i % 2 else "free_form",
        "answer_type": "text" if i % 2 else "float", "metadata": {"task": "vqa", "skills": ["x"]}, "query": "Hint: x"},
    "mmbench": lambda i: {
        "index": i, "question": "Which?", "hint": ("Look left.", "nan")[i % 2], "answer": "AB"[i % 2], "A": "cat",
        "B": "dog", "C": "nan", "D": "nan", "category": "x", "image": painted(i), "source": "x", "L2-category": "y",
        "comment": "nan", "split": "dev"},
    "mme": lambda i: {
        **_yes_no(i), "answer": ("Yes", "No")[i % 2], "question_id": f"color/{i // 2}.jpg", "category": "color"},
    "mmhal": lambda i: {
        "question_type": "attribute", "question_topic": "food", "image_id": str(i), "image_src": "http://x",
        "image_content": ["cat"], "question": "What?", "gt_answer": "Two cats.", "model_answer": "",
        "image": painted(i)},
    "mmmu": lambda i: _multi_image(
        i, 7, id=f"validation_Art_{i}", question="<image 1> Which?", options="['a', 'b', 'c', 'd']", explanation="",
        img_type="['Photographs']", answer="ABCD"[i % 4], topic_difficulty="Easy", question_type="multiple-choice",
        subfield="Drawing"),
    "mmstar": lambda i: {
        "index": i, "question": "Which? Options: A: red, B: blue", "image": painted(i), "answer": "AB"[i % 2],
        "category": "math", "l2_category": "geometry",
        "meta_info": {"source": "x", "split": "val", "image_path": f"{i}.jpg"}},
    "mmvp_corrected": lambda i: {
        "Index": i + 1, "Question": "Is it?", "Options": "(a) Open (b) Half closed", "image": painted(i),
        "Correct Answer": ("(a)", "(b)")[i % 2]},
    "naturalbench": lambda i: {
        "Index": i, "Image": painted(10 * (i // 4) + i % 2), "Question": f"Is it {i // 2}?", "Question_Type": "yes_no",
        "Answer": ("Yes", "No", "No", "Yes")[i % 4]},
    "ok_vqa": lambda i: {
        "question_id": str(i), "image": painted(i), "question": "Which?", "answers": _annotators(i),
        "question_type": "one", "answer_type": "other"},
    "pope": lambda i: {
        **_yes_no(i), "id": str(i), "question_id": str(i), "image_source": f"COCO_{i // 2}", "category": "popular"},
    "scienceqa": lambda i: {
        "image": painted(i), "question": "Which?", "choices": ["Maine", "Ohio"], "answer": i % 2, "hint": "",
        **dict.fromkeys(("task", "grade", "subject", "topic", "category", "skill", "lecture", "solution"), "x")},
    "seed_bench": lambda i: {
        "answer": "ABCD"[i % 4], **{f"choice_{c}": f"{c} thing" for c in "abcd"}, "data_id": [str(i)],
        "data_type": "image", "question": "Which?", "question_id": f"{i}_0", "question_type_id": 1,
        "image": [painted(i)], "segment": None},
    "textvqa": lambda i: {
        "image_id": str(i), "question_id": i, "question": "What?", "question_tokens": ["what"], "image": painted(i),
        "image_width": 24, "image_height": 24, "flickr_original_url": "x", "flickr_300k_url": "x",
        "answers": _annotators(i), "image_classes": ["Sign"], "set_name": "val", "ocr_tokens": ["red"]},
    "utkface": lambda i: {"image": painted(i), "age": 20 + i, "gender": "Male", "ethnicity": "Black"},
    "vizwiz": lambda i: {
        "question_id": f"{i}.jpg", "image": painted(i), "question": "What?", "answers": _annotators(i),
        "category": "other"},
    "vqav2": lambda i: {
        "question_type": "what", "multiple_choice_answer": "red", "image_id": i, "answer_type": "other",
        "question_id": i, "answers": [{"answer": text, "answer_confidence": "yes", "answer_id": k + 1}
                    for k, text in enumerate(_annotators(i))], "question": "What?", "image": painted(i)},
}  # fmt: skip
"""Preset of a data set on the hub -> one row by its number."""

FILES: Mapping[str, tuple[str, Callable[[int], Row], str]] = {
    "amber": ("amber.json", lambda i: {
        "id": i + 1, "image": f"AMBER_{i // 2}.jpg", "query": "Is it?", "type": "discriminative-hallucination",
        "truth": ("yes", "no")[i % 2]}, "image/{image}"),
    "aro": ("visual_genome_relation.json", lambda i: {
        "image_id": str(i), "image_path": f"{i}.jpg", "bbox_x": 1, "bbox_y": 2, "bbox_w": 9, "bbox_h": 8,
        "true_caption": "the dog is on it", "false_caption": "it is on the dog", "relation_name": "on"},
        "images/{image_path}"),
    "ava": ("ava.csv", lambda i: {"image_id": i, "score": 5.25}, "images/{image_id}.jpg"),
    "cub": ("CUB", lambda i: {}, "CUB/test/00{class_}.Bird_{class_}/{i}.jpg"),
    "gqa": ("testdev.json", lambda i: {
        "question": "Is it?", "imageId": f"n{i}", "answer": "yes", "isBalanced": True, "fullAnswer": "Yes, it is."},
        "images/{imageId}.jpg"),
    "hateful_memes": ("dev.jsonl", lambda i: {"id": i, "img": f"img/{i}.png", "label": i % 2, "text": "look"}, "{img}"),
    "infoseek": ("sampled_val_mc.json", lambda i: {
        "id": i, "image": f"{i}.jpg", "question": "Which?", "multiple_choices_answer": "ABCD"[i % 4],
        "multiple_choices": {"A": "a", "B": "b", "C": "c", "D": "d"}}, "images/{image}"),
    "kadid10k": ("dmos.csv", lambda i: {
        "dist_img": f"I{i // 2}_0{i}_01.png", "ref_img": f"I{i // 2}.png", "dmos": 3.25, "var": 0.5},
        "images/{dist_img}"),
    "koniq10k": ("koniq10k.csv", lambda i: {"image_name": f"{i}.jpg", "MOS": 3.25}, "1024x768/{image_name}"),
    "mmir": ("questions_mcq.json", lambda i: {
        "question": "Which?\n1. the title\n2. the logo", "image": f"images/{i}.png", "gt_ans": [1, 2][: 1 + i % 2],
        "descs": "1. the title\n2. the logo", "source": ("web page", "poster", "slide")[i % 3]}, "{image}"),
    "mmvm": ("mllm_match_eval_full.tsv", lambda i: {
        "index": i, "question": "Which?\nA. 1\nB. None", "pure_question": "Which?", "answer": "AB"[i % 2],
        "choices": "A. 1\nB. None of the above", "choices_head": "A or B", "match_type": str([1 + i % 2, 5]),
        "image_path": f"['./match_bench/case_{i}/FRAME00.jpg', './match_bench/case_{i}/FRAME01_CAND.jpg']"},
        "match_bench/case_{i}/FRAME00.jpg"),
    "mmvp": ("Questions.csv", lambda i: {
        "Index": i + 1, "Question": "Is it?", "Options": "(a) Open (b) Half closed", "Correct Answer": "(a)"},
        "MMVP Images/{Index}.jpg"),
    "scut_fbp5500": ("scores.csv", lambda i: {"file": f"CF{i}.jpg", "score": 3.25}, "Images/{file}"),
    "sugarcrepe": ("replace_obj.json", lambda i: {
        "filename": f"{i}.jpg", "caption": "a dog", "negative_caption": "a cat"}, "val2017/{filename}"),
    "viquae": ("sampled_viquae.json", lambda i: {
        "id": i, "image": f"{i}.jpg", "question": "Which?", "multiple_choices_answer": "ABCD"[i % 4],
        "multiple_choices": {"A": "a", "B": "b", "C": "c", "D": "d"}}, "images/{image}"),
}  # fmt: skip
"""Preset of files of the user -> name of the file, one row by its number, and where its image is."""

KEYED = ("gqa", "sugarcrepe")
"""Presets whose file has one object: key -> row."""
IMAGE_FOLDERS = {
    "encyclopedic_vqa": "M2KR_Images/EVQA/{img_path}",
    "infoseek_open": "M2KR_Images/Infoseek/{image_id}.JPEG",
}
"""Presets of the hub whose images are downloaded apart from the rows."""


def write_documented_rows(preset: str, folder: Path, renamed: Collection[str] = ()) -> Path:
    """Writes 32 rows of each split that a preset reads, and returns the file or folder to read.

    Args:
        preset: Its name.
        folder: The working directory. The data of a hub are written where `path` is read before the hub.
        renamed: Columns that get another name.
    """
    if preset in FILES:
        return _write_file(preset, folder, renamed)
    import datasets

    keys, made = PRESETS[preset], {}
    path = folder / keys["path"]
    for place, split in enumerate(filter(None, (keys.get("split"), keys.get("pool_split")))):
        rows = [HUB[preset](i + 100 * place) for i in range(ROWS)]
        for row in rows if preset in IMAGE_FOLDERS else ():
            _save(path / IMAGE_FOLDERS[preset].format(**row), 0)
        made[split] = datasets.Dataset.from_list(rows).rename_columns({name: f"new {name}" for name in renamed})
    with hide_datasets_progress(True):
        datasets.DatasetDict(made).save_to_disk(str(path))
    return path


def _write_file(preset: str, folder: Path, renamed: Collection[str]) -> Path:
    name, row_of, image = FILES[preset]
    path, rows = folder / name, [row_of(i) for i in range(ROWS)]
    for i, row in enumerate(rows):
        _save(folder / image.format(**{"i": i, "class_": i % 2, **row}), i)
        if preset == "mmvm":
            _save(folder / f"match_bench/case_{i}/FRAME01_CAND.jpg", ROWS + i)
    rows = [{f"new {key}" if key in renamed else key: value for key, value in row.items()} for row in rows]
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    elif path.suffix:
        content = {str(i): row for i, row in enumerate(rows)} if preset in KEYED else rows
        path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _save(file: Path, i: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    painted(i).save(file)
