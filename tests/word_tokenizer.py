"""A tokenizer of whole words, and a chat template for it: made here, nothing is downloaded."""

from typing import Any

WORDS = ("the", "river", "rises", "in", "a", "wood", "is", "it", "deep", "cold", "user", "assistant", "system")
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('no role ' + m['role']) }}{% endif %}"
    "{{ bos_token }} {{ m['role'] }} {{ m['content'] }} {{ eos_token }} {% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }} assistant{% endif %}"
)


def word_tokenizer(*, chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """One token a word, split at spaces: 0 <pad>, 1 <s>, 2 </s>, 3 <unk>, then ``WORDS``; a booted model adds BOS."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    special = ("<pad>", "<s>", "</s>", "<unk>")
    vocabulary = {word: index for index, word in enumerate((*special, *WORDS))}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    made.chat_template = chat_template
    return made
