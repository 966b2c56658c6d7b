import pytest
import torch

from rnnlab.nn.heads import DenseHead, OneHot, SymbolEmbedding

SYMBOLS = torch.tensor([[2, 1], [3, 0]])


def test_one_hot_vectors_are_units_and_padding_is_zero() -> None:
    vectors = OneHot(4).double()(SYMBOLS)
    assert vectors.dtype == torch.float64
    expected = torch.nn.functional.one_hot(SYMBOLS, 4).double()
    expected[1, 1] = 0
    assert torch.equal(vectors, expected)
    assert OneHot(4).state_dict() == {}


def test_embedding_drops_symbols_and_features_in_training_alone() -> None:
    torch.manual_seed(0)
    embedding = SymbolEmbedding(50, 8, dropout=0.5, symbol_dropout=0.4)
    symbols = torch.randint(2, 50, (40, 50))
    symbols[30:] = 0
    embedding.eval()
    assert torch.equal(embedding(symbols), embedding.vectors.weight[symbols])

    embedding.train()
    embedding.dropout.p = 0.0
    vectors = embedding(symbols)
    unknown = (vectors == embedding.vectors.weight[1]).all(-1)
    assert not vectors[30:].any()
    # Four standard deviations of 1,500 draws.
    assert abs(unknown[:30].float().mean() - 0.4) < 0.05
    kept = ~unknown
    assert torch.equal(vectors[kept], embedding.vectors.weight[symbols[kept]])

    embedding.dropout.p, embedding.symbol_dropout = 0.5, 0.0
    zeros = (embedding(symbols[:30]) == 0).float().mean()
    assert abs(zeros - 0.5) < 0.03


def test_the_padding_vector_stays_zero_while_training() -> None:
    embedding = SymbolEmbedding(5, 3)
    optimizer = torch.optim.AdamW(embedding.parameters(), lr=0.1)
    embedding(SYMBOLS).sum().backward()
    optimizer.step()
    assert not embedding.vectors.weight[0].any()
    assert embedding.vectors.weight[3].any()


def test_dense_layers_as_asked() -> None:
    head = DenseHead(6, 2, hidden_sizes=[5, 4], dropout=0.1, activation="tanh")
    kinds = [type(layer).__name__ for layer in head]
    assert kinds == ["Dropout", "Linear", "Tanh", "Dropout", "Linear", "Tanh", "Dropout", "Linear"]
    assert head(torch.randn(3, 6)).shape == (3, 2)
    assert sum(p.numel() for p in DenseHead(16, 1).parameters()) == 17


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SymbolEmbedding(5, 0), "at least 1; got 0"),
        (
            lambda: SymbolEmbedding(5, 2, dropout=1.0),
            r"embedding dropout is a probability in \[0, 1\); got 1.0",
        ),
        (lambda: SymbolEmbedding(5, 2, symbol_dropout=-0.1), "symbol dropout"),
        (lambda: DenseHead(5, 2, dropout=2), "dropout is a probability"),
        (lambda: DenseHead(5, 2, hidden_sizes=[0]), r"at least 1; got \[5, 0, 2\]"),
        (lambda: DenseHead(5, 2, activation="step"), "'step' is not known; choose from relu, tanh, gelu"),
    ],
)
def test_bad_settings_are_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
