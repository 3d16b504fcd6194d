"""llama.cpp itself, from the package llama-cpp-py-sync: a checkpoint as GGUF, and logits under a control vector."""

from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import transformers
from numpy.typing import NDArray

FLOAT32 = 0  # GGML_TYPE_F32


def write_model(checkpoint: Path, file: Path) -> None:
    """A Qwen3 checkpoint of transformers as a GGUF file of float32, without its tokenizer."""
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint)
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
    writer = gguf.GGUFWriter(file, "qwen3")
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    for name, tensor in model.state_dict().items():
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def directions(file: Path) -> dict[int, NDArray[np.float32]]:
    """Layer -> direction of a file with control vectors, read as llama.cpp, repeng and EasySteer read it."""
    tensors = gguf.GGUFReader(file).tensors
    return {int(one.name.removeprefix("direction.")): np.array(one.data) for one in tensors}


def last_logits(model_file: Path, tokens: Sequence[int], vectors: Path | None = None) -> NDArray[np.float32]:
    """llama.cpp's logits after tokens, [V], under a file of control vectors as `--control-vector` applies it."""
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib

    ffi, lib = get_ffi(), get_lib()
    model = lib.llama_model_load_from_file(str(model_file).encode(), lib.llama_model_default_params())
    parameters = lib.llama_context_default_params()
    parameters.n_ctx = parameters.n_batch = 512
    parameters.type_k = parameters.type_v = FLOAT32
    parameters.flash_attn_type = 0
    context = lib.llama_init_from_model(model, parameters)
    if vectors is not None:
        rows = directions(vectors)
        width = len(next(iter(rows.values())))
        table = np.zeros((max(rows), width), np.float32)  # llama.cpp's table begins at layer 1
        for layer, row in rows.items():
            table[layer - 1] = row
        data = ffi.cast("float *", ffi.from_buffer(table))
        assert not lib.llama_set_adapter_cvec(context, data, table.size, width, 1, max(rows))
    ids = ffi.new("llama_token[]", list(tokens))
    assert not lib.llama_decode(context, lib.llama_batch_get_one(ids, len(tokens)))
    count = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
    logits = np.frombuffer(ffi.buffer(lib.llama_get_logits_ith(context, -1), 4 * count), np.float32).copy()
    lib.llama_free(context)
    lib.llama_model_free(model)
    return logits
