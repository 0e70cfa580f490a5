"""At one cell: the sensors that are there, and the pose, answer one query."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


class ModalityAttention(nn.Module):
    """A query for each cell attends to the modalities of that cell and to the pose; absent ones are masked keys.

    Every modality has its own linear layer for query, key and value: what a channel means differs between encoders.
    The cell's query is a learned vector plus the mean of what the modalities that are there ask, so that each has a
    say in how the others are weighed (CRN's fusion asks with the mean too, Kim et al. 2023). A learned token for
    "nothing seen" is always among the keys: with every modality absent the result is that constant, and no softmax
    ever runs over an empty row.

    Written as sums over the five keys: attention kernels are made for long rows, and tens of thousands of rows of
    five cost them several times more on a CPU.
    """

    head_of_channel: Float[Tensor, "C heads"]

    def __init__(self, channels: int, heads: int, sensors: int = 3) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} heads")
        self.scale = (channels // heads) ** -0.5
        self.sensors = nn.ModuleList(nn.Linear(channels, 3 * channels) for _ in range(sensors))
        self.pose = nn.Linear(channels, 3 * channels)
        self.query = nn.Parameter(torch.randn(channels) * 0.02)
        self.nothing_key = nn.Parameter(torch.randn(channels) * 0.02)
        self.nothing_value = nn.Parameter(torch.randn(channels) * 0.02)
        self.output = nn.Linear(channels, channels)
        # Sums over a head's channels, and copies to them, as matrix products: short inner axes are slow.
        head = torch.arange(channels) // (channels // heads)
        self.register_buffer("head_of_channel", F.one_hot(head, heads).float(), persistent=False)

    def forward(
        self, sensors: Float[Tensor, "B M N C"], pose: Float[Tensor, "B C"], available: Bool[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B N C"], Float[Tensor, "B T N"]]:
        """M sensors' features at N cells, the pose, and which of them (T = M + 1, the pose last) are there.

        Returns the fused cells and, for pictures, the weight of each modality at each cell (mean over heads; what is
        left to 1 went to the "nothing seen" token).
        """
        count = sensors.shape[1]
        if not available.all():
            # Chosen, not multiplied: whatever stands in an absent sensor's BEV, NaN too, ends here.
            sensors = torch.where(available[:, :count, None, None], sensors, 0.0)
            pose = torch.where(available[:, count:], pose, 0.0)
        inputs = [*zip(self.sensors, sensors.unbind(1), strict=True), (self.pose, pose[:, None])]
        asked = {index: inputs[index][0](inputs[index][1]).chunk(3, dim=-1) for index in _there(available)}

        share = available / available.sum(dim=1, keepdim=True).clamp(min=1)
        query = self.query.expand_as(sensors[:, 0])
        for index, (part, _, _) in asked.items():
            query = query + part * share[:, index, None, None].to(part.dtype)
        query = query * self.scale
        scores = [
            ((query * key) @ self.head_of_channel.to(key.dtype)).masked_fill(
                ~available[:, index, None, None], -torch.inf
            )
            for index, (_, key, _) in asked.items()
        ]
        scores.append((query * self.nothing_key) @ self.head_of_channel.to(query.dtype))
        weights = torch.stack(scores, dim=1).softmax(dim=1)  # (B, those that are there + 1, N, heads)
        values = [value for _, _, value in asked.values()] + [self.nothing_value]
        fused = torch.zeros_like(query)
        for weight, value in zip(weights.unbind(1), values, strict=True):
            fused = fused + (weight @ self.head_of_channel.T.to(weight.dtype)) * value
        shown = weights.new_zeros(len(available), len(inputs), sensors.shape[2])
        shown[:, list(asked)] = weights[:, :-1].mean(dim=-1)
        return self.output(fused), shown


def _there(available: Bool[Tensor, "B T"]) -> list[int]:
    """The modalities that some sample has; the others need no layer. All of them where the network is being exported:
    what will be there is not known then.
    """
    if torch.onnx.is_in_onnx_export():
        return list(range(available.shape[1]))
    there: list[int] = available.any(dim=0).nonzero().flatten().tolist()
    return there
