from decoding.conformance import check_strategy
from decoding.interventions.conformance import check_intervention
from experiments.launch.conformance import check_launcher
from experiments.observers.base import check_observer
from icl.testing.conformance import check_edit, check_metric, check_model, check_task
from icl.testing.faulty_server import FaultyServer
from icl.testing.sessions import check_sessions
from icl.testing.vision_server import VisionServer, listen
from prompts.conformance import check_composer, check_orderer, check_transform
from retrievers.machinery.conformance import check_embedder, check_reranker, check_retriever

__all__ = [
    "FaultyServer",
    "VisionServer",
    "check_composer",
    "check_edit",
    "check_embedder",
    "check_intervention",
    "check_launcher",
    "check_metric",
    "check_model",
    "check_observer",
    "check_orderer",
    "check_reranker",
    "check_retriever",
    "check_sessions",
    "check_strategy",
    "check_task",
    "check_transform",
    "listen",
]
