from icl.errors import check_read as check_read
from icl.models.answer_likelihood import answers as answers
from icl.models.answer_likelihood import demo_prompt as demo_prompt
from icl.models.cached_checkpoint import checksum as checksum
from icl.models.cached_checkpoint import import_optional as import_optional
from icl.models.cached_checkpoint import package_folder as package_folder
from icl.models.chat_messages import data_url as data_url
from icl.models.chat_messages import mended as mended
from icl.models.checkpoint_errors import FAILURES as FAILURES
from icl.models.checkpoint_errors import damaged_json_file as damaged_json_file
from icl.models.checkpoint_errors import reason as reason
from icl.models.endpoint import Endpoint as Endpoint
from icl.models.endpoint import EndpointUnavailableError as EndpointUnavailableError
from icl.models.hub_model import HubModel as HubModel
from icl.models.tracing import SessionTracer as SessionTracer
from icl.models.tracing import Tracer as Tracer

__all__: list[str] = []
