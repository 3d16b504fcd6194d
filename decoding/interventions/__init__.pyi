from decoding.interventions.edits import EVERYWHERE as EVERYWHERE
from decoding.interventions.edits import edit_digest as edit_digest
from decoding.interventions.edits import replaced as replaced
from decoding.interventions.head_effects import head_contributions as head_contributions
from decoding.interventions.head_effects import head_sites as head_sites
from decoding.interventions.head_effects import mean_head_inputs as mean_head_inputs
from decoding.interventions.trainable import TrainableMethod as TrainableMethod
from decoding.interventions.trainable import minimize as minimize
from decoding.interventions.vector_file import write_vector_file as write_vector_file

__all__: list[str] = []
