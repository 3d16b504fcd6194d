from retrievers.base import (
    ALLOW_LEAKS,
    EXCLUDE_LEAKS,
    Embedder,
    FittedRanking,
    FittedReranker,
    FittedRetriever,
    LeakPolicy,
    Reranker,
    Resources,
    Retriever,
)
from retrievers.base import RetrievedDemos as RetrievedDemos
from retrievers.base import RetrieverWrapper as RetrieverWrapper
from retrievers.base import Vectors as Vectors
from retrievers.base import all_images as all_images
from retrievers.base import check_takes_policy as check_takes_policy
from retrievers.base import component_parts as component_parts
from retrievers.base import declared as declared
from retrievers.base import mean_per_item as mean_per_item
from retrievers.base import normalize_rows as normalize_rows
from retrievers.base import run_preflight as run_preflight
from retrievers.base import stack_batches as stack_batches
from retrievers.machinery.embedding_models import BATCH as BATCH
from retrievers.machinery.embedding_models import GIB as GIB
from retrievers.machinery.embedding_models import SHIPPED as SHIPPED
from retrievers.machinery.embedding_models import EmbedderDtype as EmbedderDtype
from retrievers.machinery.embedding_models import EmbedderPlacement as EmbedderPlacement
from retrievers.machinery.embedding_models import PlacedEmbedder as PlacedEmbedder
from retrievers.machinery.embedding_models import checkpoint_digest as checkpoint_digest
from retrievers.machinery.embedding_models import decode_batches as decode_batches
from retrievers.machinery.embedding_models import find_checkpoint as find_checkpoint
from retrievers.machinery.embedding_models import gpu_memory as gpu_memory
from retrievers.machinery.embedding_models import load_pretrained as load_pretrained
from retrievers.machinery.embedding_models import load_sentence_encoder as load_sentence_encoder
from retrievers.machinery.embedding_models import needed_bytes as needed_bytes
from retrievers.machinery.embedding_models import on_device as on_device
from retrievers.machinery.embedding_models import placed_embedders as placed_embedders
from retrievers.machinery.embedding_models import weight_bytes as weight_bytes
from retrievers.machinery.embeddings import MODALITIES_OF as MODALITIES_OF
from retrievers.machinery.embeddings import EmbeddingSource as EmbeddingSource
from retrievers.machinery.embeddings import PoolFitted as PoolFitted
from retrievers.machinery.embeddings import TextField as TextField
from retrievers.machinery.embeddings import check_modalities as check_modalities
from retrievers.machinery.embeddings import demo_text as demo_text
from retrievers.machinery.embeddings import for_text as for_text
from retrievers.machinery.embeddings import open_source as open_source
from retrievers.machinery.embeddings import reads as reads
from retrievers.machinery.embeddings import shared_cache as shared_cache
from retrievers.machinery.embeddings import source_key as source_key
from retrievers.machinery.embeddings import split_words as split_words
from retrievers.machinery.encoder import Encoder as Encoder
from retrievers.machinery.greedy_selection import Array as Array
from retrievers.machinery.greedy_selection import PartMatches as PartMatches
from retrievers.machinery.greedy_selection import select_dissimilar as select_dissimilar
from retrievers.machinery.similarity import CandidateSetRetriever as CandidateSetRetriever
from retrievers.machinery.similarity import FittedSimilarity as FittedSimilarity
from retrievers.machinery.similarity import ModalityRetriever as ModalityRetriever
from retrievers.machinery.similarity import Neighbors as Neighbors
from retrievers.machinery.similarity import SimilarityRetriever as SimilarityRetriever
from retrievers.machinery.similarity import VectorIndex as VectorIndex
from retrievers.machinery.similarity import embed_by_modality as embed_by_modality
from retrievers.machinery.similarity import fit_similarity as fit_similarity
from retrievers.machinery.trained_heads import check_embedder as check_embedder

__all__ = [
    "ALLOW_LEAKS",
    "EXCLUDE_LEAKS",
    "Embedder",
    "FittedRanking",
    "FittedReranker",
    "FittedRetriever",
    "LeakPolicy",
    "Reranker",
    "Resources",
    "Retriever",
]
