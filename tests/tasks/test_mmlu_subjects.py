"""MMLU's four groups of subjects."""

from collections import Counter

import pytest

from lacscope.tasks._mmlu_subjects import SUBJECT_GROUPS

pytestmark = pytest.mark.once


def test_there_are_57_subjects_in_4_groups() -> None:
    assert len(SUBJECT_GROUPS) == 57
    assert Counter(SUBJECT_GROUPS.values()) == {"STEM": 18, "humanities": 13, "social sciences": 12, "other": 14}


def test_some_subjects_stand_where_the_published_mapping_has_them() -> None:
    published = {
        "anatomy": "other",
        "econometrics": "social sciences",
        "formal_logic": "humanities",
        "machine_learning": "STEM",
        "global_facts": "other",
        "professional_law": "humanities",
        "professional_psychology": "social sciences",
        "computer_security": "STEM",
    }
    assert {subject: SUBJECT_GROUPS[subject] for subject in published} == published
