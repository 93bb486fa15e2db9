% MATLAB's imresize(x, 0.5): a cubic (a = -0.5) of twice the width, the border mirrored. Octave's does not widen it.
function out = imresize(x, ~)
  out = half(half(x)')';
end

function out = half(x)
  n = size(x, 1);
  mirrored = [1:n, n:-1:1];
  out = zeros(ceil(n / 2), size(x, 2));
  for i = 1:size(out, 1)
    center = 2 * i - 0.5;
    places = floor(center) + (-3:4);
    distance = abs(center - places) / 2;
    near = 1.5 * distance.^3 - 2.5 * distance.^2 + 1;
    far = -0.5 * distance.^3 + 2.5 * distance.^2 - 4 * distance + 2;
    weights = near .* (distance <= 1) + far .* (distance > 1 & distance <= 2);
    out(i, :) = (weights / sum(weights)) * x(mirrored(mod(places - 1, 2 * n) + 1), :);
  end
end
