"""The shared tests are asserted with the same detail as others: pytest rewrites the asserts of `test_*` by itself."""

import pytest

pytest.register_assert_rewrite(
    "tests.store.contract", "tests.store.contract_conversations", "tests.store.contract_limits"
)
