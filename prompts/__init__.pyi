from prompts import pieces
from prompts.base import BaseComposer, Composer, Orderer, Transform
from prompts.budget import fit as fit
from prompts.example_changes import answers_of as answers_of
from prompts.example_changes import change_examples as change_examples
from prompts.example_changes import check_gold_unchanged as check_gold_unchanged
from prompts.example_changes import compose_names as compose_names
from prompts.example_changes import derange as derange
from prompts.example_changes import gold_of as gold_of
from prompts.example_changes import new_name as new_name
from prompts.example_changes import random_answer as random_answer
from prompts.example_changes import random_places as random_places
from prompts.example_changes import rename_answers as rename_answers
from prompts.example_changes import replace_demos as replace_demos
from prompts.example_changes import rivals as rivals
from prompts.example_changes import rivals_of as rivals_of
from prompts.example_changes import scored_example as scored_example
from prompts.example_changes import sort_by_rank as sort_by_rank
from prompts.example_changes import with_answer as with_answer
from prompts.pieces import First as First
from prompts.pieces import Level as Level

__all__ = [
    "BaseComposer",
    "Composer",
    "Orderer",
    "Transform",
    "pieces",
]
