% The covariance of the columns over the rows without NaN.
function out = nancov(x)
  out = cov(x(~any(isnan(x), 2), :));
end
