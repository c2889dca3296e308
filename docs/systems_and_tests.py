"""Every system of the mission, and the tests that stand for what we say of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

COLUMNS = {
    "built": "its full size is laid out, with the published number of parameters where one is published",
    "reads the published layout": "the authors' (or transformers') names go in and come back bit by bit",
    "equal to the reference": "every output compared with the reference differs by at most 5e-5 in float32",
    "cached == recomputed": "answering step by step equals reading everything again",
    "trains by its stages": "two real steps of every stage of every recipe move what it names and nothing else",
    "answers": "a saved folder (tiny, random weights) is loaded and chats",
}
BUILT, READS, EQUAL, CACHED, TRAINS, ANSWERS = COLUMNS


@dataclass(frozen=True)
class Row:
    """Args:
    name: as in scops.systems.SYSTEMS where it stands there.
    tests: column -> module.test below tests; [case] for one case, otherwise all its cases.
    without: columns that cannot be ticked.
    """

    name: str
    title: str
    group: str
    tests: Mapping[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()


def planned(group: str, **titles: str) -> tuple[Row, ...]:
    return tuple(Row(name.replace("_", "-"), title, group) for name, title in titles.items())


def encoders(**titles: str) -> tuple[Row, ...]:
    group = "Encoders"
    return tuple(Row(name.replace("_", "-"), title, group, without=PART) for name, title in titles.items())


def reader(system: str) -> Mapping[str, str]:
    """A system of the family that cuts pages, by the name of its module and of its tiny model."""
    tests = f"systems.test_{system}.test_"
    return {
        BUILT: tests + "full_size_has_the_published_count_and_names",
        READS: tests + "keys_round_trip_bitwise",
        EQUAL: tests + "every_probe_equals_the_reference",
        CACHED: tests + "cached_session_equals_recompute",
        TRAINS: f"systems.test_stages.test_stages_of_{system}_move_exactly_what_they_name",
        ANSWERS: f"systems.test_answers.test_a_loaded_folder_answers[{system}]",
    }


def seeing(system: str) -> Mapping[str, str]:
    """A system that is compared with transformers', by the name of its module and of its tiny model."""
    tests = f"systems.test_{system}.test_"
    return {
        BUILT: tests + "full_sizes_have_the_published_counts_and_names",
        READS: tests + "keys_round_trip_bitwise",
        EQUAL: tests + "logits_and_replies_equal_transformers",
        CACHED: tests + "cached_sessions_equal_recomputing",
        TRAINS: tests + "stages_move_exactly_what_they_name",
        ANSWERS: f"systems.test_answers.test_a_loaded_folder_answers[{system}]",
    }


PART = (CACHED, TRAINS, ANSWERS)  # what an encoder alone cannot do
ROWS = (
    Row(
        "mplug-owl", "mPLUG-Owl", "mPLUG family",
        {
            BUILT: "systems.test_mplug_owl.test_full_size_has_the_published_count_and_names",
            READS: "systems.test_mplug_owl.test_keys_round_trip_bitwise",
            EQUAL: "systems.test_mplug_owl.test_every_probe_equals_the_reference",
            CACHED: "models.test_sessions.test_cached_session_equals_recompute_for_unequal_prompts_with_pictures_anywhere",
            TRAINS: "systems.test_stages.test_stages_of_mplug_owl_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[mplug]",
        },
    ),
    Row(
        "mplug-owl-video", "mPLUG-Owl (video)", "mPLUG family",
        {
            BUILT: "systems.test_mplug_owl_video.test_full_size_has_the_published_count_and_shapes",
            READS: "systems.test_mplug_owl_video.test_keys_round_trip_bitwise",
            EQUAL: "systems.test_mplug_owl_video.test_the_text_with_a_clip_is_as_published",
            CACHED: "systems.test_mplug_owl_video.test_cached_sessions_equal_recomputing",
            TRAINS: "systems.test_stages.test_stages_of_mplug_owl_video_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[mplug_video]",
        },
    ),
    Row(
        "mplug-owl-bloomz", "mPLUG-Owl (BLOOMZ)", "mPLUG family",
        {
            BUILT: "systems.test_mplug_owl_bloomz.test_full_size_has_the_counts_and_shapes_of_its_parts",
            READS: "systems.test_mplug_owl_bloomz.test_keys_come_back_bit_by_bit",
            EQUAL: "systems.test_mplug_owl_bloomz.test_words_pass_the_embedding_s_norm_and_pictures_do_not",
            CACHED: "systems.test_mplug_owl_bloomz.test_cached_sessions_equal_recomputing_with_pictures_anywhere",
            TRAINS: "systems.test_stages.test_stages_of_mplug_owl_with_bloomz_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[mplug_bloomz]",
        },
    ),
    Row(
        "mplug-owl2", "mPLUG-Owl2", "mPLUG family",
        {
            BUILT: "systems.test_mplug_owl2.test_full_size_has_the_published_count_and_names",
            READS: "systems.test_mplug_owl2.test_keys_round_trip_bitwise_with_the_tables_that_they_compute",
            EQUAL: "systems.test_mplug_owl2.test_every_probe_equals_the_reference",
            CACHED: "systems.test_mplug_owl2.test_cached_sessions_equal_recompute_for_pictures_anywhere",
            TRAINS: "systems.test_stages.test_stages_of_mplug_owl2_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[owl2]",
        },
    ),
    Row(
        "mplug-owl2.1", "mPLUG-Owl2.1", "mPLUG family",
        {
            BUILT: "systems.test_mplug_owl21.test_full_size_has_the_published_count_and_names",
            READS: "systems.test_mplug_owl21.test_keys_round_trip_bitwise",
            EQUAL: "systems.test_mplug_owl21.test_every_probe_equals_the_reference_within_and_beyond_the_trained_length",
            CACHED: "systems.test_mplug_owl21.test_cached_sessions_equal_recompute_though_they_grow_beyond_the_trained_length",
            TRAINS: "systems.test_stages.test_stages_of_mplug_owl21_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[owl21]",
        },
    ),
    Row(
        "mplug-owl3", "mPLUG-Owl3", "mPLUG family",
        {
            BUILT: "systems.test_mplug_owl3.test_full_sizes_have_the_published_counts_and_names",
            READS: "systems.test_mplug_owl3.test_keys_round_trip_bitwise",
            EQUAL: "systems.test_mplug_owl3.test_every_probe_equals_the_reference",
            CACHED: "models.test_beside.test_cached_session_equals_recompute_with_pictures_anywhere",
            TRAINS: "systems.test_stages.test_stages_of_mplug_owl3_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[owl3]",
        },
    ),
    Row("mplug-docowl", "mPLUG-DocOwl (1.0, UReader's model)", "mPLUG family", reader("ureader")),
    Row("ureader", "UReader", "mPLUG family", reader("ureader")),
    Row("docowl1.5", "DocOwl 1.5", "mPLUG family", reader("docowl15")),
    Row(
        "docowl2", "DocOwl2", "mPLUG family",  # its compressor equals a copy of the code, the whole a twin in plain operations
        {
            BUILT: "systems.test_docowl2.test_full_size_is_docowl15s_and_a_compressor",
            READS: "systems.test_docowl2.test_keys_round_trip_bitwise",
            EQUAL: "systems.test_docowl2_whole.test_pages_become_the_logits_of_plain_operations",
            CACHED: "systems.test_docowl2.test_cached_session_equals_recompute",
            TRAINS: "systems.test_stages.test_stages_of_docowl2_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[docowl2]",
        },
    ),
    Row(
        "mplug", "mPLUG", "mPLUG family",
        {
            BUILT: "systems.test_mplug.test_full_sizes_have_the_published_names_and_shapes",
            READS: "systems.test_mplug.test_keys_round_trip_bitwise",
            EQUAL: "systems.test_mplug.test_every_probe_equals_the_reference",
            CACHED: "systems.test_mplug.test_cached_session_equals_recompute",
            TRAINS: "systems.test_stages.test_stages_of_mplug_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[skip]",
        },
    ),
    Row("llava", "LLaVA 1.0 / 1.5", "Multimodal language models", seeing("llava")),
    Row("llava-next", "LLaVA-NeXT", "Multimodal language models", seeing("llava_next")),
    Row(
        "composed", "any parts composed; small members of the families", "Our own default",
        {
            BUILT: "systems.test_composed.test_sizes_name_their_published_stages",
            CACHED: "systems.test_composed.test_cached_sessions_of_cut_pictures_equal_recompute",
            TRAINS: "systems.test_composed.test_every_two_parts_learn_answer_and_come_back_from_their_folder",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[composed]",
        },
        without=(READS, EQUAL),
    ),
    Row(
        "owl-small", "owl-tiny, owl-nano", "Our own default",
        {
            BUILT: "systems.test_owl_small.test_the_layout_promises_what_the_connector_delivers",
            CACHED: "systems.test_owl_small.test_cached_session_equals_recompute",
            TRAINS: "systems.test_stages.test_stages_of_owl_small_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[owl]",
        },
        without=(READS, EQUAL),
    ),
    Row(
        "llama", "LLaMA, Vicuna, Mistral, SmolLM2, Qwen2, Qwen3", "Language models",
        {
            BUILT: "language.test_llama.test_the_named_sizes_have_the_published_counts",
            READS: "language.test_llama.test_keys_round_trip_bitwise",
            EQUAL: "language.test_llama.test_logits_equal_transformers",
            CACHED: "models.test_sessions.test_sliding_window_in_a_cache_equals_recompute",
            TRAINS: "systems.test_stages.test_stages_of_llama_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[text]",
        },
    ),
    Row(
        "blip2", "BLIP-2 (as it writes, OPT and FlanT5)", "Multimodal language models",
        {
            BUILT: "systems.test_blip2.test_full_sizes_have_the_counts_and_names_of_transformers",
            READS: "systems.test_blip2.test_keys_round_trip_bitwise_in_both_layouts",
            EQUAL: "systems.test_blip2.test_features_tokens_and_logits_equal_transformers",
            CACHED: "systems.test_blip2.test_cached_sessions_of_opt_equal_recompute",
            TRAINS: "systems.test_blip2.test_stages_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[blip2_opt]",
        },
    ),
    Row(
        "instructblip", "InstructBLIP", "Multimodal language models",
        {
            BUILT: "systems.test_instructblip.test_full_sizes_have_the_names_and_shapes_of_transformers",
            READS: "systems.test_instructblip.test_keys_round_trip_bitwise_in_both_layouts",
            EQUAL: "systems.test_instructblip.test_tokens_and_logits_equal_transformers_with_instructions_of_unequal_length",
            CACHED: "systems.test_instructblip.test_cached_sessions_with_llama_equal_recompute",
            TRAINS: "systems.test_instructblip.test_stages_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[instructblip]",
        },
    ),
    Row(
        "flamingo", "Flamingo (with parts that stand in for NFNet and Chinchilla)", "Multimodal language models",
        {
            CACHED: "systems.test_flamingo.test_cached_session_equals_recompute",
            TRAINS: "systems.test_flamingo.test_stages_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[flamingo]",
        },
        without=(BUILT, READS, EQUAL),  # it was never published, and its encoder and language model are not built
    ),
    Row(
        "open-flamingo", "OpenFlamingo", "Multimodal language models",
        {
            BUILT: "systems.test_open_flamingo.test_full_sizes_have_the_published_names_and_shapes",
            READS: "systems.test_open_flamingo.test_keys_round_trip_bitwise",
            EQUAL: "systems.test_open_flamingo.test_every_probe_equals_the_reference",
            CACHED: "systems.test_open_flamingo.test_cached_session_equals_recompute",
            TRAINS: "systems.test_open_flamingo.test_stages_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[open_flamingo]",
        },
    ),
    Row(
        "idefics", "IDEFICS", "Multimodal language models",
        {
            BUILT: "systems.test_idefics.test_full_sizes_have_the_names_and_shapes_of_transformers",
            READS: "systems.test_idefics.test_keys_round_trip_bitwise_and_config_comes_back",
            EQUAL: "systems.test_idefics.test_features_and_scores_equal_transformers",
            CACHED: "systems.test_idefics.test_cached_session_equals_recompute",
            TRAINS: "systems.test_idefics.test_stages_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[idefics]",
        },
    ),
    Row(
        "blip2-qformer", "BLIP-2, first stage", "Multimodal language models",
        {
            BUILT: "systems.test_blip2_qformer.test_full_sizes_have_the_published_names_and_shapes",
            READS: "systems.test_blip2_qformer.test_keys_round_trip_bitwise",
            EQUAL: "systems.test_blip2_qformer.test_every_probe_equals_the_reference",
            CACHED: "systems.test_blip2_qformer.test_cached_session_equals_recompute",
            TRAINS: "systems.test_blip2_qformer.test_stages_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[blip2_pairs]",
        },
    ),
    Row(
        "minigpt4", "MiniGPT-4 / MiniGPT-v2", "Multimodal language models",  # the parts equal transformers', the whole a twin
        {
            BUILT: "systems.test_minigpt4.test_full_sizes_have_the_published_counts_and_shapes",
            READS: "systems.test_minigpt4.test_keys_round_trip_bitwise",
            EQUAL: "systems.test_minigpt4.test_every_step_equals_the_same_in_plain_operations",
            CACHED: "systems.test_minigpt4.test_cached_sessions_equal_recomputing",
            TRAINS: "systems.test_minigpt4.test_stages_of_minigpt4_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[minigpt4]",
        },
    ),
    Row(
        "timechat", "TimeChat", "Multimodal language models",
        {
            BUILT: "systems.test_timechat.test_full_size_has_the_published_shapes_and_the_counts_of_its_parts",
            READS: "connectors.test_video_qformer.test_keys_round_trip_bitwise",
            EQUAL: "connectors.test_video_qformer.test_every_probe_equals_the_reference",
            CACHED: "systems.test_timechat.test_cached_sessions_equal_recomputing",
            TRAINS: "systems.test_timechat.test_stages_of_timechat_move_exactly_what_they_name",
            ANSWERS: "systems.test_answers.test_a_loaded_folder_answers[timechat]",
        },
    ),
    *planned(
        "Multimodal language models",
        blip="BLIP", vila="VILA", qwen_vl="Qwen-VL", cogvlm="CogVLM", internvl="InternVL",
        xcomposer2_4khd="XComposer2-4KHD", deepseek_vl="DeepSeek-VL", yi_vl="Yi-VL", minicpm_v="MiniCPM-V",
        llava_uhd="LLaVA-UHD", mobilevlm="MobileVLM", honeybee="Honeybee", mm1="MM1",
        x_llm="X-LLM", next_gpt="NExT-GPT",
    ),
    *planned(
        "Vision-language pre-training",
        vilbert="ViLBERT", lxmert="LXMERT", vl_bert="VL-BERT", oscar="OSCAR", pixel_bert="Pixel-BERT", soho="SOHO",
        vilt="ViLT", simvlm="SimVLM", albef="ALBEF", vl_beit="VL-BEiT", vlmo="VLMo", beit3="BEiT-3",
    ),
    Row(
        "clip", "CLIP (picture tower)", "Encoders",
        {
            BUILT: "encoders.test_vit.test_openai_l14_has_the_published_count",
            READS: "checkpoints.test_hub_maps.test_clip_fills_our_vit_and_comes_back_bitwise",
            EQUAL: "encoders.test_vit.test_every_token_equals_transformers",
        },
        without=PART,
    ),
    Row(
        "efficientnet-lite", "EfficientNet-Lite", "Encoders",
        {
            BUILT: "encoders.test_efficientnet.test_published_sizes_have_their_parameters",
            READS: "encoders.test_efficientnet.test_keys_round_trip_bitwise",
        },
        without=PART,
    ),
    Row(
        "siglip", "SigLIP (picture tower)", "Encoders",
        {
            BUILT: "encoders.test_siglip.test_so400m_has_the_published_count",
            READS: "encoders.test_siglip.test_keys_round_trip_bitwise",
            EQUAL: "encoders.test_siglip.test_tokens_and_the_head_equal_transformers",
        },
        without=PART,
    ),
    *encoders(
        eva_clip="EVA-CLIP", nfnet="NFNet", vit="ViT", mae="MAE", beit="BEiT", whisper="Whisper",
        clap="CLAP", hubert="HuBERT",
    ),
)  # fmt: skip
