from icl.metrics.machinery.answer_extraction import extract_answer as extract_answer
from icl.metrics.machinery.answer_matching import contains_answer as contains_answer
from icl.metrics.machinery.number_answers import gold_number as gold_number
from icl.metrics.machinery.number_answers import read_number as read_number
from icl.metrics.machinery.option_letters import chosen_by_place as chosen_by_place
from icl.metrics.machinery.option_parsing import is_correct as is_correct
from icl.metrics.machinery.option_parsing import named_option as named_option
from icl.metrics.machinery.option_parsing import option_probability as option_probability
from icl.metrics.machinery.yes_no import asks_yes_no as asks_yes_no
from icl.metrics.machinery.yes_no import read_yes_no as read_yes_no
from icl.metrics.normalize import is_number as is_number
from icl.metrics.normalize import normalize_vqa as normalize_vqa
from icl.metrics.normalize import parse_numbers as parse_numbers
from icl.metrics.run_level import Bools as Bools
from icl.metrics.run_level import Floats as Floats
from icl.metrics.run_level import group_indices as group_indices
from icl.metrics.run_level import ratio as ratio
from icl.metrics.run_level import sum_rows as sum_rows

__all__: list[str] = []
