% MATLAB's freqspace([m n], 'meshgrid'): frequencies of a centred spectrum, in half cycles per sample.
function [u, v] = freqspace(size_, ~)
  [u, v] = meshgrid(axis_(size_(2)), axis_(size_(1)));
end

function f = axis_(n)
  if mod(n, 2)
    f = (-(n - 1):2:(n - 1)) / n;
  else
    f = (-n:2:(n - 2)) / n;
  end
end
