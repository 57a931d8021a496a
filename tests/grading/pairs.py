"""Pairs of a reference and an answer: those that say the same and those that do not, each worked out by hand."""

from __future__ import annotations

_SAME = r"""
x=3, y=-2  ~  \begin{cases} y=-2 \\ x=3 \end{cases}
x=3, y=-2  ~  \begin{align*} x &= 3 \\ y &= -2 \end{align*}
x=3, y=-2  ~  \left\{\begin{array}{l} x=3 \\ y=-2 \end{array}\right.
x=3, y=-2  ~  x = 3 \quad y = -2
5  ~  \begin{equation} x = 5 \end{equation}
2 \pm \sqrt{3}  ~  x_{1,2} = 2 \pm \sqrt{3}
-\frac12  ~  negative one half
-\frac13  ~  minus a third
0.000001  ~  10^{-6}
-1000  ~  -10^3
(1,2)  ~  ]1,2[
(1,2)  ~  \left]1;2\right[
[1,2)  ~  [1,2[
(-\infty,2]\cup[5,\infty)  ~  ]-\infty,2]\cup[5,+\infty[
(1,2)\cup(3,4)  ~  x \in ]1,2[ U ]3,4[
]0,1]  ~  0 < x \le 1
\sqrt[3]{2}, \sqrt[4]{3}  ~  \sqrt[4]{3}, \sqrt[3]{2}
150 \text{ minutes}  ~  2 h 30 min
150 \text{ minutes}  ~  2 hours and 30 minutes
2 \text{ h } 30 \text{ min}  ~  2h 30m
2 \text{ h } 30 \text{ min}  ~  2.5 hours
\$12.50  ~  12 dollars and 50 cents
5 \text{ ft } 6 \text{ in}  ~  66 inches
2.5 \text{ kg}  ~  2 kg 500 g
\begin{pmatrix}1&0\\0&1\end{pmatrix}  ~  [[1,0],[0,1]]
5  ~  \cancel{6} 5
5  ~  \hspace{1cm} 5 \tag{1}
5  ~  <b>5
f''(x)  ~  f^{\prime\prime}(x)
\neg p  ~  ~p
x < 3  ~  x &lt; 3
x \ne 1, 2  ~  x \ne 2, x \ne 1
x \ne 1  ~  x \not= 1
3\sqrt{2}  ~  3\!\sqrt{2}
x \ne 1, 2  ~  x \ne 1 and x \ne 2
\text{a-b}  ~  -b+a
\text{-x}  ~  -1x
13  ~  {\bf 13}
\frac12  ~  {\bf \frac{1}{2}}
204_5  ~  {\large 204_5}
\frac{12}{5}  ~  \frac{\displaystyle 12}{5}
13  ~  \huge 13
13  ~  \emph{13}
13  ~  \colorbox{yellow}{13}
(x,y)=(2,1)  ~  x=2, y=1
x=2, y=1  ~  (y, x) = (1, 2)
r=3, \theta=\frac{\pi}{2}  ~  (r, \theta) = (3, \frac{\pi}{2})
1, 1, 2  ~  2, 1, 1
1, 2  ~  1, 2, 2
\{1, 1, 2\}  ~  \{1, 2\}
f(1)=2, f(2)=3  ~  f(2)=3, f(1)=2
3-2  ~  3 - 2
10-12  ~  10 - 12
2 \times 3  ~  2 by 3
4x4  ~  4 \times 4
2^3 \cdot 3  ~  24
(1,2)\cup(3,4)  ~  1<x<2 or 3<x<4
(1,2)\cup(3,4)  ~  \left(1,2\right) and \left(3,4\right)
(-\infty,2)\cup(5,\infty)  ~  (-\infty,2) and (5,\infty)
a=1, 2, b=3  ~  a=1 or 2, b=3
x=1, y=2  ~  x=1 and y=2
x^2-5x+6=0  ~  2x^2-10x+12=0
\sqrt{2}  ~  \sqrt{2} \approx 1.414
12\pi  ~  12\pi ≈ 37.7 cm
1+\sqrt{5}  ~  x = 1 + \sqrt{5} = 3.236...
-5  ~  {-}5
\pm 3  ~  +/- 3
1234.56  ~  1.234,56
0.\overline{6}  ~  0.\bar6
10  ~  “10”
10  ~  «10»
\emptyset  ~  no solution
\text{no solution}  ~  There are no solutions.
\text{no solution}  ~  \emptyset
\text{does not exist}  ~  DNE
8:00 \text{ a.m.}  ~  8 AM
A \to B  ~  A \rightarrow B
p \to q  ~  p → q
2\text{ seconds}  ~  2 sec
5  ~  ~~6~~ 5
\vec{v}  ~  \mathbf{v}
\vec{AB}  ~  \overrightarrow{AB}
2.5  ~  two and a half hours
\frac74  ~  one and three quarters
18  ~  one and a half dozen
x<2 \lor x>5  ~  x<2 \text{ or } x>5
x=2 \lor x=3  ~  2, 3
\angle A = 30^\circ  ~  A = 30
m\angle A = 30, m\angle B = 60  ~  \angle B = 60, \angle A = 30
\frac{abc}{4R}  ~  \frac{bca}{4R}
\frac{abc}{4R}  ~  abc/(4R)
2xyz  ~  2zyx
xyz  ~  x \cdot y \cdot z
2abc+3  ~  3+2abc
-mgh  ~  -hgm
x \equiv 3 \pmod 7  ~  x ≡ 3 (mod 7)
x \equiv 3 \pmod 7  ~  x \equiv 3\ (\text{mod}\ 7)
\binom{n}{k}  ~  {n \choose k}
\arctan 2  ~  \tan^{-1}(2)
\ln 3  ~  \log_e 3
3\mathbf{i}+4\mathbf{j}  ~  3\hat{i}+4\hat{\jmath}
3:30\text{ PM}  ~  3:30 p.m.
5.5  ~  five point five
\sin 20^\circ  ~  \sin{20^\circ}
5\text{ hours}  ~  It takes 5 hours a day
20^\circ\mathrm{C}  ~  20
20^\circ\text{C}  ~  20 degrees Celsius
20^\circ\text{C}  ~  20 Celsius
20°C  ~  20^\circ
5 \text{ km/h}  ~  5 km per hour
5 \text{ mg}  ~  5 milligrams
2 \text{ mol}  ~  2 moles
\$5  ~  It costs 5 dollars
0.25  ~  There is a 25% chance
5\text{ cm}^2  ~  The area is 5 square centimeters
5\text{ hours}  ~  There are 5 in the box
16\pi  ~  16\pi cm^2
\frac{3}{4}  ~  \frac{3}{4} = 0.75
(-\infty,\infty)  ~  \text{all real numbers}
(-\infty,3]  ~  (-inf, 3]
\text{ellipse}  ~  an ellipse
\frac{2}{3}  ~  two-thirds
\frac{2}{3}  ~  \text{two-thirds}
0.75  ~  three quarters
\frac{1}{3}  ~  a third
\frac12  ~  half
\frac12  ~  one-half
50  ~  5 tens
60000  ~  60K
60000  ~  \$60k
2000000  ~  \$2M
12  ~  a dozen
1000000  ~  a million
3  ~  3 times
3  ~  three times as many
105  ~  one hundred and five
5  ~  five (5)
5  ~  5 (five)
18  ~  US\$18
18  ~  #### 18
18  ~  '18'
(-\infty,-1)\cup(1,\infty)  ~  |x|>1
(2,6)  ~  |x-4|<2
[2,6]  ~  |4-x| \le 2
(1,3)  ~  |2x-4|<2
|x-4|<2  ~  2 < x < 6
|2x-6|<4  ~  |x-3|<2
(-\infty,-3]\cup[2,\infty)  ~  \left|x+\frac12\right| \ge 2.5
|z-w|<2  ~  |w-z|<2
\frac{7}{3}  ~  2 and 1/3
2.5  ~  two and \frac{1}{2}
2.5 \text{ hours}  ~  2\text{ and }1/2 hours
2, \frac13  ~  2 and 1/3
3 km/h  ~  3 km per hour
\$3  ~  3 dollars per hour
5 MHz  ~  5 megahertz
5 mg  ~  5 MG
5 MPa  ~  5 megapascals
[-\frac12,\frac12]  ~  \left|x\right| \le \frac12
(0,\infty)  ~  (0, oo)
m \cdot 2  ~  2m
\frac{h}{2}  ~  0.5h
x^2-1  ~  x^2-1 cm
\sqrt{3}  ~  \text{The answer is } \sqrt{3}
(1,2)  ~  Answer: (1, 2)
\text{Monday}  ~  The answer is Monday.
11_2  ~  (11)_2
11_2  ~  11_{\text{two}}
11_2  ~  11 (base 2)
5  ~  5\
45  ~  45°C
45  ~  45 °F
45  ~  45℃
45  ~  45º
45  ~  45^\circ\text{F}
-5  ~  Negative five
-5  ~  MINUS 5
24  ~  2 dozens
(x,y)=(1,2)  ~  (x, y) = (1, 2)
x=2, y=1  ~  y=1, x=2
x=2, y=1  ~  x = 2 and y = 1
x=2, y=1  ~  2, 1
x=2, y=1  ~  (x, y) = (2, 1)
x=2, y=1  ~  (2, 1)
(2, 1)  ~  x=2, y=1
(2, 1)  ~  y = 1, x = 2
x=1,2  ~  1, 2
x=1,2  ~  2, 1
x=1 \text{ or } x=2  ~  2, 1
1, 2  ~  x = 2, x = 1
1, 2  ~  x_1 = 2, x_2 = 1
a=3, b=-1, c=2  ~  c=2, a=3, b=-1
\text{-5}  ~  -5
\text{-5}  ~  \text{-5}
-2,2  ~  \pm 2
2,-2  ~  \pm 2
-2,2  ~  x = \pm 2
-2,2  ~  \pm2
\pm 2  ~  2, -2
\pm \sqrt{3}  ~  \sqrt{3}, -\sqrt{3}
-\sqrt{3}, \sqrt{3}  ~  \pm\sqrt 3
\pm 1, \pm 2  ~  1, -1, 2, -2
3 \pm 2 \sqrt{2}  ~  3+2\sqrt2, 3-2\sqrt2
1, 2, \ldots, n  ~  1,2,\dots,n
1, 2, \ldots, n  ~  1, 2, ..., n
|x-5|  ~  |5-x|
|x-5|  ~  \left|x-5\right|
|x-5|  ~  \lvert x - 5 \rvert
-5  ~  minus 5
-5  ~  It is minus 5 degrees
-5  ~  negative 5
-5  ~  \text{negative }5
-5  ~  \text{negative five}
-5  ~  The temperature is -5 degrees.
5  ~  five
5  ~  Five
5  ~  \text{five}
12  ~  twelve
0  ~  zero
25  ~  twenty-five
25  ~  twenty five apples
100  ~  one hundred
1200  ~  one thousand two hundred
2500000  ~  2.5 million
5  ~  She sold five clips.
\frac{\pi}{10^{12}}  ~  \pi \cdot 10^{-12}
e^{-40}  ~  \frac{1}{e^{40}}
13  ~  \textbf{13}
13  ~  \mathbf{13}
13  ~  \mathrm{13}
13  ~  \boldsymbol{13}
13  ~  **13**
13  ~  \underline{13}
\begin{pmatrix}1&2\\3&4\end{pmatrix}  ~  \left[\begin{array}{cc}1&2\\3&4\end{array}\right]
\begin{pmatrix}1&2\\3&4\end{pmatrix}  ~  \begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix}  ~  \left(\begin{array}{rr}1&2\\3&4\end{array}\right)
\begin{pmatrix}1&2\\3&4\end{pmatrix}  ~  M = \begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}
e^{16} - 1  ~  -1 + \exp(16)
e^{16} - 1  ~  \exp(16)-1
e^{16} - 1  ~  exp(16) - 1
e^{2x}  ~  \exp(2x)
(-\infty,0)\cup(0,\infty)  ~  x \neq 0
(-\infty,0)\cup(0,\infty)  ~  x \ne 0
(-\infty,0)\cup(0,\infty)  ~  \mathbb{R} \setminus \{0\}
(-\infty,0)\cup(0,\infty)  ~  \{x \mid x \neq 0\}
(-\infty,\infty)  ~  \mathbb{R}
(-\infty,\infty)  ~  x \in \mathbb{R}
[2,\infty)  ~  \{x \mid x \ge 2\}
[2,\infty)  ~  \{x : x \geq 2\}
[2,\infty)  ~  \{ x \in \mathbb{R} \mid x \ge 2 \}
(2,3)  ~  2 < x < 3
(-\infty,2)\cup(3,\infty)  ~  x < 2, x > 3
x \in [-2,7]  ~  [-2,7]
1500  ~  1.5e3
1500  ~  1.5 \times 10^3
0.0015  ~  1.5e-3
1500  ~  1,500
y = 2x+3  ~  2x - y + 3 = 0
y = 2x+3  ~  y - 2x = 3
y = 2x+3  ~  y = 3 + 2x
y = 2x+3  ~  f(x) = 2x+3
5  ~  |AB| = 5
5  ~  f^{-1}(3) = 5
5  ~  f(3) = 5
5  ~  f'(3) = 5
5  ~  P(A) = 5
5  ~  \angle ABC = 5
5  ~  a_5 = 5
5  ~  \overline{AB} = 5
9  ~  4 + 5 = 9
9  ~  4 + 5 = 3 \cdot 3 = 9
\{1,2,3,4\}  ~  \{1,3\} \cup \{2,4\}
1,2,3,4  ~  \{1,3\} \cup \{2,4\}
15\mbox{ cm}^2  ~  15\mbox{ cm}^2
15\mbox{ cm}^2  ~  15\text{ square centimeters}
15\mbox{ cm}^2  ~  15
16  ~  16_{10}
16_7  ~  16_{7}
16_7  ~  16
\overline{z}  ~  \overline{z}
\overline{z}  ~  \bar{z}
\mathbf{v}  ~  \vec{v}
10\pi  ~  10\pi \text{ cm}^2
30^\circ  ~  30 degrees
\frac{1}{3}  ~  0.\overline{3}
50  ~  50 percent
1:2  ~  1:2
x^3+3x-6  ~  x^{3} - 6 + 3x
\frac{x+1}{2}  ~  \frac{1}{2}x + \frac{1}{2}
n^2+n  ~  n(n+1)
2^{n+1}  ~  2 \cdot 2^n
\frac{\sqrt{2}}{2}  ~  \frac{1}{\sqrt{2}}
0.5\sqrt{3}  ~  \frac{\sqrt{3}}{2}
-i  ~  \frac{1}{i}
\text{June 5}  ~  June 5
6{,}000  ~  6000
\sin^2 x  ~  1-\cos^2 x
a+b  ~  b+a
\frac{a}{b}  ~  a/b
\frac{1}{2}  ~  0.5
\frac{1}{2}  ~  1/2
\frac{1}{2}  ~  \dfrac12
\frac{1}{2}  ~  .5
\frac{1}{2}  ~  \frac{2}{4}
\frac{1}{2}  ~  50\%
50  ~  50\%
50\%  ~  50
10,\!080  ~  10080
10,\!080  ~  10{,}080
10080  ~  10,080
10080  ~  10\,080
10080  ~  10 080
5  ~  5.0
5  ~  \$5
5  ~  \$5.00
5  ~  $5$
5  ~  \(5\)
5  ~  x = 5
5  ~  5 \text{ cm}
5  ~  5\text{ dollars}
5  ~  5 cm
5  ~  5 apples
5  ~  +5
5  ~  \text{5}
5  ~  \text{5 apples}
5  ~  5^\circ
5  ~  5 degrees
5  ~  f(2) = 5
5  ~  \text{Area} = 5
5  ~  2 + 3 = 5
5  ~  AB = 5
5  ~  5.
5  ~  **5**
5  ~  \boxed{5}
-5  ~  -5
x=5  ~  5
x=5  ~  x=5
\frac{3}{2}  ~  1\frac{1}{2}
\frac{3}{2}  ~  1 \frac{1}{2}
\frac{3}{2}  ~  1 1/2
137 \frac{1}{2}  ~  137.5
2\sqrt{3}  ~  \sqrt{12}
\frac{\sqrt{3}}{3}  ~  \frac{1}{\sqrt{3}}
\frac{\sqrt{3}}{3}  ~  \sqrt{3}/3
1 \pm \sqrt{19}  ~  1 - \sqrt{19}, 1 + \sqrt{19}
1 \pm \sqrt{19}  ~  1+\sqrt{19} \text{ and } 1-\sqrt{19}
3, 5, 7  ~  7,5,3
3, 5, 7  ~  x = 3, 5, 7
3, 5, 7  ~  x=3, x=5, x=7
3, 5, 7  ~  \{3, 5, 7\}
3, 5, 7  ~  3, 5, \text{ and } 7
3, 5, 7  ~  3, 5 and 7
(1,-2)  ~  (1, -2)
(1,-2)  ~  \left(1,-2\right)
(1,-2)  ~  \left( 1, -2 \right)
(3,4]  ~  3 < x \le 4
(3,4]  ~  x \in (3, 4]
(3,4]  ~  \left(3, 4\right]
(-\infty,2)\cup(3,\infty)  ~  (3,\infty) \cup (-\infty, 2)
(-\infty,2)\cup(3,\infty)  ~  x<2 \text{ or } x>3
[5,\infty)  ~  x \ge 5
[5,\infty)  ~  5 \leq x
\begin{pmatrix} 1 \\ 2 \end{pmatrix}  ~  \begin{bmatrix} 1\\2 \end{bmatrix}
\begin{pmatrix} 16/49 \\ 48/49 \end{pmatrix}  ~  \frac{1}{49}\begin{pmatrix} 16 \\ 48 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}  ~  \begin{pmatrix}1&2\\3&4\end{pmatrix}
\text{east}  ~  east
\text{east}  ~  \text{East}
\text{(C)}  ~  C
\text{(C)}  ~  (C)
\text{(C)}  ~  \textbf{(C)}
\text{(C)}  ~  (C) Plane
\text{(C)}  ~  Option C
C  ~  \text{(C)}
C  ~  C. 12
C  ~  \textbf{(C) }12
\text{(C)}  ~  (C) \frac{1}{2}
1+i,1-i  ~  1-i, i+1
2\sqrt{113}  ~  2√113
\sqrt{113}  ~  sqrt 113
\frac{3}{4}  ~  (3)/(4)
-\frac{3}{4}  ~  -(3)/4
\frac{3}{4}  ~  \mathbf{\frac{3}{4}}
-1 \pm 2i  ~  -1-2i, -1+2i
-\frac{3}{2}  ~  -1\frac{1}{2}
-\frac{3}{2}  ~  -1 1/2
x^2+1  ~  x**2 + 1
5  ~  \approx 5
5  ~  x \approx 5
5  ~  = 5
12  ~  12^{\text{th}}
12  ~  12th
12  ~  12^{th} \text{ grade}
50  ~  50 \frac{\text{miles}}{\text{hour}}
50  ~  \$50/hour
50  ~  50 miles/hour
15  ~  15 cm^2
15  ~  15 \text{ cm}^{2}
(1,-2)  ~  (x, y) = (1, -2)
(-\infty,2)\cup(3,\infty)  ~  (-infinity, 2) U (3, infinity)
\sqrt{3}  ~  sqrt(3)
\frac{3\pi}{4}  ~  3pi/4
2\sqrt{3}  ~  2*sqrt(3)
\text{Navin}  ~  Navin
40_9  ~  40_{9}
40_9  ~  40_9
40_9  ~  40
x^3+3x-6  ~  3x + x^3 - 6
x^3+3x-6  ~  -6+3x+x^{3}
(a+5)(b+2)  ~  (b+2)(a+5)
6-5i  ~  -5i+6
y = 2x + 3  ~  y=3+2x
y = 2x + 3  ~  2x+3
5x - 7y + 11z + 4 = 0  ~  5x-7y+11z = -4
5x - 7y + 11z + 4 = 0  ~  -5x+7y-11z-4=0
\frac{20000}{\pi}  ~  20000/\pi
12\pi  ~  12 \pi
12\pi  ~  12\pi \text{ square units}
30^\circ  ~  30
.0000672  ~  6.72 \times 10^{-5}
.0000672  ~  0.0000672
320000  ~  3.2 \times 10^5
2^{10}  ~  1024
2^{100}  ~  2^{100}
\frac{270}7\text{ degrees}  ~  \frac{270}{7}
15\mbox{ cm}^2  ~  15\text{ square cm}
15\mbox{ cm}^2  ~  15 \, \text{cm}^2
864 \mbox{ inches}^2  ~  864
5.4 \text{ cents}  ~  5.4
5.4 \text{ cents}  ~  5.4 \text{ cents}
\$32,\!348  ~  32348
\$32,\!348  ~  32,348
11,\! 111,\! 111,\! 100  ~  11111111100
2000000  ~  2 million
2000000  ~  \$2 \text{ million}
0.1\overline{6}  ~  \frac{1}{6}
\log 2  ~  \log_{10} 2
\cot x  ~  \frac{\cos x}{\sin x}
\frac{1}{x+1}  ~  (x+1)^{-1}
\{1\pm\sqrt{5},-2\}  ~  \{-2, 1+\sqrt5, 1-\sqrt5\}
|x|+1  ~  |x| + 1
3R^2  ~  3R^2
\left( 3, \frac{\pi}{2} \right)  ~  (3, \pi/2)
x \in [-2,7]  ~  -2 \le x \le 7
\emptyset  ~  \varnothing
\frac{9}{2}  ~  4.5
2k  ~  k \cdot 2
\binom{5}{2}  ~  \binom{5}{2}
\ln 2  ~  \ln{2}
e^{2}  ~  e^2
\frac{\sqrt[3]{2}}{2}  ~  \sqrt[3]{2}/2
10\%  ~  10\%
10\%  ~  10
1 + \frac{\sqrt{2}}{2}  ~  \frac{2+\sqrt{2}}{2}
\begin{pmatrix} 1 \\ 2 \end{pmatrix}  ~  (1, 2)
\begin{pmatrix} 1 \\ 2 \end{pmatrix}  ~  A \begin{pmatrix} 3 \\ 4 \end{pmatrix} = \begin{pmatrix} 1 \\ 2 \end{pmatrix}
\text{(C)}  ~  C. Plane
\text{(C)}  ~  \textbf{(C)}\ \text{Plane}
\text{62 degrees}  ~  62
5 cm  ~  5
6\sqrt{2}\text{ cm}  ~  6\sqrt2
40\%  ~  0.4
(-\infty,\infty)  ~  (-\infty, +\infty)
250000  ~  2.5 x 10^5
7  ~  *7*
7  ~  "7"
7  ~  \large 7
7  ~  \color{red}{7}
1234567  ~  1'234'567
1234567  ~  It is 1.234.567 dollars
1000  ~  1_000
5  ~  5:00
5  ~  It leaves at 5 o'clock
5 p.m.  ~  5:00 p.m.
5 p.m.  ~  5:00
\$5.50  ~  550 cents
\$5.50  ~  It costs 550 cents
550 \text{ cents}  ~  \$5.50
50 \text{ cents}  ~  \$0.5
[2,5)  ~  x\ge2 and x<5
[2,5)  ~  x<5 \text{ and } x\ge 2
[2,5)  ~  2 \le x and x < 5
[2,5)  ~  x \geq 2 \land x < 5
x<5 \text{ and } x\ge 2  ~  [2,5)
2 \le x < 5  ~  x ≥ 2 ∧ x < 5
x<2, y>5  ~  x<2 and y>5
\sin 20^\circ  ~  sin 20°
\sin 20^\circ  ~  \sin(20^{\circ})
\sin 20^\circ  ~  \sin \frac{\pi}{9}
\frac{1}{2}\tan 20^\circ  ~  \frac{\tan(20^\circ)}{2}
\sin^2 20^\circ  ~  \sin^{2}(20^\circ)
\frac{2^{2005}+1}{3 \cdot 2^{2006}}  ~  \frac{1+2^{2005}}{3 \cdot 2^{2006}}
\frac{1}{2^{2006}}  ~  2^{-2006}
\frac{3^{2020}-1}{2}  ~  \frac{1}{2}(3^{2020}-1)
"""
_DIFFERENT = r"""
x=2, y=3  ~  x=2 \quad \text{or} \quad y=3
x=1, x=3  ~  x=1, y=3
x=3, y=-2  ~  \begin{cases} x=-2 \\ y=3 \end{cases}
f(x)=\begin{cases} 1 & x=0 \\ 0 & x=1\end{cases}  ~  f(x)=\begin{cases} 0 & x=0 \\ 1 & x=1\end{cases}
-\frac12  ~  one half
0.000001  ~  10^{-5}
106  ~  10^6
(1,2)  ~  [1,2[
(1,2)  ~  ]2,1[
[1,2]  ~  ]1,2[
(1,2)  ~  ]1,2[ \cup ]3,4[
150 \text{ minutes}  ~  2 h 50 min
150 \text{ minutes}  ~  2 min 30 s
150 \text{ minutes}  ~  30 min 2 h
2 \text{ h } 30 \text{ min}  ~  2 h
5 \text{ ft } 6 \text{ in}  ~  5 m 6 cm
\$12.50  ~  12 dollars and 5 cents
\$12.50  ~  12 euros and 50 cents
\begin{pmatrix}1&2\\3&4\end{pmatrix}  ~  [[1,3],[2,4]]
23  ~  2  3
90  ~  9^\circ 0
\sqrt{2}+10^{-25}  ~  \sqrt{2}
0.25  ~  0.25\%
5  ~  \cancel{5}
5  ~  \phantom{5}6
5  ~  &lt;5
p  ~  ~p
5  ~  Is it 5?
5  ~  I doubt it is 5
5  ~  hardly 5
5  ~  5 is one of the answers
5  ~  multiples of 5
5  ~  the first 5 primes
10\%  ~  10 basis points
x \ne 1, 2  ~  x \ne 1, x = 2
x \ne 1, 2  ~  x \ne 1, 2, 3
\text{a-b}  ~  a+b
\text{-x}  ~  x
x \ne 1  ~  x = 1
x=2, y=1  ~  (y, x) = (2, 1)
x=2, y=1  ~  x=2 or y=1
r=3, \theta=\frac{\pi}{2}  ~  (\theta, r) = (3, \frac{\pi}{2})
1, 1, 2  ~  1, 2
1, 1, 2  ~  1, 2, 2
f(x)=x^2  ~  g(x)=x^2
f(2)=5  ~  f(3)=5
P(A)=0.5  ~  P(B)=0.5
3-2  ~  5-4
3-2  ~  1
10-12  ~  8-10
2020-03-05  ~  2020-05-03
2 \times 3  ~  3 \times 2
4x4  ~  2x8
5 ft 3 in  ~  3 ft 5 in
0b101  ~  0b110
(1,2)\cup(3,4)  ~  1<x<2 and 3<x<4
(1,2)\cup(3,4)  ~  1 \leq x \leq 2 and 3 \leqslant x \leqslant 4
(1,2)\cup(3,4)  ~  x \in (1,2) and x \in (3,4)
\vec{AB}  ~  \vec{BA}
12\pi  ~  13\pi \approx 37.7
\sqrt{2}  ~  \sqrt{3} \approx 1.414
\text{(B)}  ~  (B) is wrong
\text{(B)}  ~  (B) is incorrect
-5  ~  Answer - 5
-5  ~  The answer - 5 apples
5  ~  ~~5~~
5  ~  ~~5~~ 6
5  ~  it differs from 5
5  ~  a number bigger than 5
5  ~  rather than 5
5  ~  instead of 5
5  ~  within 5
5  ~  divisible by 5
5  ~  a factor of 5
5  ~  the negative of 5
5  ~  neg. 5
5  ~  at best 5
5  ~  a minimum of 5
5  ~  5 is too small
5  ~  5 would be wrong
5  ~  5 seems too small
5  ~  roughly double 5
5  ~  spent less 5
5  ~  5 grand
p \lor q  ~  p \land q
p \lor q  ~  p ∧ q
x<2 \lor x>5  ~  x<2 \wedge x>5
\frac{3}{4}  ~  3:4
2.5  ~  three and a half
\angle A = 30^\circ  ~  \angle B = 30^\circ
m\angle A = 30, m\angle B = 60  ~  m\angle A = 60, m\angle B = 30
abc^2  ~  (abc)^2
\frac{abc}{4R}  ~  \frac{abc}{4}R
2(abc+1)  ~  2abc+1
\frac{x}{abc+1}  ~  \frac{x}{abc}+1
e^{abc}+1  ~  e^{abc+1}
1-(xyz)^2  ~  1-xyz^2
3xyz^2  ~  3xyz2
xyz  ~  xy
x \equiv 3 \pmod 7  ~  x \equiv 4 \pmod 7
x \equiv 3 \pmod 7  ~  x \equiv 3 \pmod 5
3:30\text{ PM}  ~  3:30 a.m.
5  ~  five point five
5  ~  5 score
5  ~  5 gross
5  ~  5 lakh
5  ~  5 maximum
2.\overline{7}  ~  2\overline{7}
30^\circ  ~  30 radians
\$5  ~  It costs 5 cents
\$5.50  ~  55 cents
\$5.50  ~  5.50 cents
5 \text{ days}  ~  5:00
5 \text{ days}  ~  It leaves at 5 o'clock
5 p.m.  ~  5:00 a.m.
[2,5)  ~  x\ge2 or x<5
[2,5)  ~  x>2 and x<5
[2,5)  ~  x\ge2 and y<5
(-\infty,2)\cup(5,\infty)  ~  x<2 and x>5
\sin 20^\circ  ~  \sin 20
\sin 20  ~  \sin 20^\circ
\sin 20^\circ  ~  \sin(20)
2\cos 40^\circ  ~  2\cos(40)
5\text{ hours}  ~  It takes 5 minutes a day
20^\circ\text{C}  ~  20^\circ\text{F}
20 degrees Celsius  ~  20 degrees Fahrenheit
5 \text{ miles per hour}  ~  5 miles per minute
5\text{ cm}^2  ~  The area is 5 cm
0.25  ~  The chance is 25
16\pi  ~  16\pi squared
16\pi  ~  16\pi r
16\pi\text{ cm}^2  ~  16\pi cm^3
\frac{3}{4}  ~  \frac{4}{5} = 0.75
(-\infty,\infty)  ~  all real numbers except 3
\text{(A)}  ~  a bird
\text{E}  ~  A or E
3  ~  three quarters
5  ~  5 tens
5  ~  five sixteenths
2  ~  two-thirds
60  ~  60K
2  ~  \$2M
5  ~  5a
5k  ~  5000
5  ~  5 six
5  ~  six 5
5  ~  5 and one
5  ~  5 or maybe six
5  ~  5 (six)
5  ~  anything but 5
5  ~  cannot be 5
5  ~  5 is wrong
5  ~  5 doubled
5  ~  the square of 5
5  ~  5 times the price
1  ~  a lot
(-1,1)  ~  |x|>1
(2,6)  ~  |x-4|>2
(2,6)  ~  |x-4| \le 2
(2,6)  ~  |x+4|<2
(2,6)  ~  |x-4|<-2
x \in (2,6)  ~  |y-4|<2
|z-w|<2  ~  |w+z|<2
\frac{7}{3}  ~  2 and 1/2
2  ~  2 and 1/3
2.5  ~  2 and 1/2 and 1
3 km  ~  3 km/h
3 km/h  ~  3 km
3 km  ~  It is 3 km per hour
5 \text{ miles per hour}  ~  It goes 5 miles per minute
5 MHz  ~  5 mHz
5 mPa  ~  5 MPa
5 mg  ~  5 Mg
5 ms  ~  5 megaseconds
(-1,1)  ~  |x| \le 1
(-\infty,-1)\cup(1,\infty)  ~  |x|<1
1,-1  ~  |x|=1
11_2  ~  11 base 3
5  ~  5 in base 6
\text{A}  ~  The answer is not A
2  ~  two fifths
3  ~  3 tenths
5  ~  5 thirds
5  ~  5 thousandths
5  ~  5 hundreds
24  ~  24 dozens of eggs
(a,b)=(3,4)  ~  (b,a)=(3,4)
a:b = 1:2  ~  b:a = 1:2
x=2, y=1  ~  x=1, y=2
x=2, y=1  ~  1, 2
x=2, y=1  ~  (1, 2)
x=2, y=1  ~  y=2, x=1
x=2, y=1  ~  x=2
x=2, y=1  ~  x=2, z=1
x=2, y=1  ~  x=2, y=1, z=0
(2, 1)  ~  x=1, y=2
a=3, b=-1, c=2  ~  a=3, b=2, c=-1
x=1 \text{ and } y=2  ~  x=2 \text{ and } y=1
p=3, q=4  ~  p=4, q=3
\text{-5}  ~  5
\text{5}  ~  -5
\text{-5}  ~  \text{5}
\text{5}  ~  \text{-5}
\text{0.5}  ~  \text{5}
-2,2  ~  2
-2,2  ~  -2
-2,2  ~  \pm 3
2  ~  \pm 2
\pm 2  ~  2
\pm 1, \pm 2  ~  \pm 1
1 \pm \sqrt{19}  ~  -1 \pm \sqrt{19}
1, 2, \ldots, n  ~  1, 3, 5, \ldots, 2n-1
1, 2, \ldots, n  ~  1, 2, \ldots, m
1, 2, \ldots, n  ~  1, 2, n
1, 2, \ldots, n  ~  n
2, 4, \ldots, 2n  ~  1, 2, \ldots, n
1, 2, 4, \ldots, 2^n  ~  1, 2, 3, \ldots, n
|x-5|  ~  5-x
|x-5|  ~  x-5
|x-5|  ~  x+5
\sqrt{x^2}  ~  x
\sqrt{x^2}  ~  -x
|x|  ~  -x
|x-100|  ~  100-x
|x+3|  ~  x+3
\sqrt{(x-5)^2}  ~  x-5
5  ~  minus 5
5  ~  It is minus 5 degrees
5  ~  negative 5
5  ~  \text{negative }5
5  ~  negative five
5  ~  The answer is negative: 5
5  ~  5 degrees below zero
5  ~  5 below
-5  ~  It is 5 degrees
-5  ~  plus 5
5  ~  It is at least 5
5  ~  at most 5
5  ~  not 5
5  ~  no more than 5
5  ~  more than 5
5  ~  less than 5
5  ~  greater than 5
5  ~  almost 5
5  ~  5 or more
5  ~  up to 5
0  ~  not 0
0  ~  at least 0
0  ~  nonzero
0  ~  n0
0  ~  none of 0 and 1
0  ~  \text{not } 0
0  ~  \text{at least } 0
0  ~  0 or 1
0  ~  x \ne 0
0  ~  x0
0  ~  0x
16  ~  \ge 16
16  ~  \geq 16
16  ~  > 16
16  ~  x \ge 16
16  ~  \le 16
16  ~  < 16
16  ~  \ne 16
16  ~  \approx 16.1
16  ~  \sim 17
16  ~  16_7
16  ~  16_{7}
16  ~  16_{\text{seven}}
16  ~  16_8
204_5  ~  204_6
204_5  ~  204_{6}
204_5  ~  54
204_5  ~  205_5
16_7  ~  13
16_7  ~  16_{10}
\frac{\pi}{10^{12}}  ~  \frac{2\pi}{10^{12}}
e^{-40}  ~  e^{-30}
e^{-40}  ~  0
0  ~  e^{-40}
0  ~  10^{-30}
10^{-15}  ~  10^{-16}
10^{-15}  ~  0
\sqrt{2}\cdot 10^{-20}  ~  \sqrt{3}\cdot 10^{-20}
\pi  ~  3.1415926535897932384626433
\sqrt{2}  ~  1.41421356237309504880
\frac{1}{3}  ~  0.333333333333
10^{20}\pi  ~  10^{20}\pi + 1
10^{20}  ~  10^{20}+1
e^{16} - 1  ~  e^{16}
e^{16} - 1  ~  -1 + \exp(15)
(-\infty,0)\cup(0,\infty)  ~  x \neq 1
(-\infty,0)\cup(0,\infty)  ~  \mathbb{R}
(-\infty,\infty)  ~  (-\infty, 0)
(-\infty,\infty)  ~  \mathbb{Z}
(-\infty,\infty)  ~  \mathbb{Q}
[2,\infty)  ~  (2,\infty)
[2,\infty)  ~  x > 2
[2,\infty)  ~  x \le 2
[2,\infty)  ~  2
[2,\infty)  ~  \{x \mid x > 2\}
(2,3)  ~  2 \le x < 3
(2,3)  ~  x > 2
(-\infty,2)\cup(3,\infty)  ~  x < 2
(-\infty,2)\cup(3,\infty)  ~  (-\infty,2)\cap(3,\infty)
1500  ~  1.5e2
1500  ~  1.5e
5  ~  5e
5  ~  5e1
y = 2x+3  ~  2x - y - 3 = 0
y = 2x+3  ~  2x + y + 3 = 0
y = 2x+3  ~  2x = y
y = 2x+3  ~  x = 2y+3
y = 2x+3  ~  2y = 2x+3
x=5  ~  2x=10
5  ~  2x = 5
5  ~  xy = 5
5  ~  x + 5 = 5
5  ~  x^2 = 5
5  ~  5 = x + 2
5  ~  \frac{x}{2} = 5
5  ~  -x = 5
9  ~  4 + 4 = 9
9  ~  x + 9 = 9
\{1,2,3,4\}  ~  \{1,3\} \cup \{2,5\}
\{1,2,3,4\}  ~  \{1,3\} \cap \{2,4\}
\{1,2\}  ~  (1,2)
\{1,2\}  ~  [1,2]
\{1,2\}  ~  1
\{\{1\},\{2\}\}  ~  \{1,2\}
\{1,2\}  ~  \{\}
\{\}  ~  \{0\}
15\mbox{ cm}^2  ~  15\mbox{ cm}^3
15\mbox{ cm}^2  ~  15\mbox{ m}^2
15\mbox{ cm}^2  ~  15\text{ cubic cm}
10\pi\text{ cm}^2  ~  10\pi \text{ cm}^3
\$5  ~  5 cents
5 \text{ km}  ~  5 \text{ miles}
5 \text{ g}  ~  5 mg
5 \text{ mol}  ~  5 mmol
3 \text{ kW}  ~  3 watts
5 \text{ hours}  ~  5 \text{ minutes}
\overline{z}  ~  z
z  ~  \overline{z}
\bar{x}  ~  x
x'  ~  x
x  ~  x'
f'(x)  ~  f(x)
X  ~  x
R  ~  r
3R^2  ~  3r^2
ab  ~  AB
x_1  ~  x_2
x_1  ~  x
n  ~  n squared
n  ~  n^2
n^2  ~  n squared + 1
2  ~  2 squared
\begin{pmatrix}1&2\\3&4\end{pmatrix}  ~  \begin{pmatrix}1&3\\2&4\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix}  ~  \begin{vmatrix}1&2\\3&4\end{vmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix}  ~  (1,2,3,4)
\begin{pmatrix}1&2\\3&4\end{pmatrix}  ~  1,2,3,4
(3,4)  ~  \begin{pmatrix}3&4\end{pmatrix}
\frac{1}{2}  ~  \frac{1}{2}12
6  ~  2 \cdot 3
5  ~  2 3
6  ~  2 3
23  ~  2 3
7  ~  1 6
2x  ~  x + x + 1
2x  ~  2
2x  ~  x^2
5  ~  5x
5  ~  5i
5  ~  5\pi
5\pi  ~  5
5 \text{ cm}  ~  5x
3m  ~  3
3m  ~  3 m^2
2k  ~  2
2k+2  ~  2+2
a+b  ~  a-b
\frac{a}{b}  ~  \frac{b}{a}
a^b  ~  b^a
1:2  ~  2:1
1:2  ~  12
-\frac{1}{2}  ~  \frac{1}{2}
-5  ~  --5
5  ~  --5
5  ~  +-5
\frac{\sqrt{3}}{2}  ~  \cos 30
\sqrt{3}  ~  \tan 60
10  ~  \binom{5}{2}
10  ~  10!
10  ~  \lfloor 10.5 \rfloor
10  ~  \sum_{k=1}^{4} k
\text{even}  ~  odd
\text{even}  ~  not even
\text{Evelyn}  ~  Navin
\text{(B)}  ~  (B) or (C)
\text{(B)}  ~  b = 2
\text{June 5}  ~  June 6
\text{yes}  ~  no
5  ~  6
5  ~  -5
5  ~  55
5  ~  2+3
5  ~  x = -5
5  ~  5, 6
5  ~  y
5  ~  \frac{1}{5}
5  ~  15/3 - 0
24  ~  4!
4  ~  \sqrt{16}
\frac{1}{2}  ~  \frac{1}{3}
\frac{1}{2}  ~  0.49999
\frac{1}{3}  ~  0.3333
\pi  ~  3.14159265
\pi  ~  22/7
10080  ~  7! \times 2!
(1,-2)  ~  (-2,1)
(1,-2)  ~  [1,-2]
(2,4)  ~  [2,4]
(2,4)  ~  (2,4]
(2,4)  ~  2,4
3, 5, 7  ~  3, 5
3, 5, 7  ~  3, 5, 7, 9
\text{east}  ~  west
\text{east}  ~  seat
\text{(C)}  ~  D
\text{(C)}  ~  (D) Plane C
40_9  ~  40_8
40_9  ~  36
x=5  ~  y=5
y = 2x + 3  ~  y = 2x - 3
y = 2x + 3  ~  x = 2y + 3
(3,4]  ~  3 \le x \le 4
5.4 \text{ cents}  ~  5.4 \text{ dollars}
6-5i  ~  6+5i
2\sqrt{3}  ~  3\sqrt{2}
\frac{\sqrt{3}}{2}  ~  \sin(\pi/3)
1 \pm \sqrt{19}  ~  1 + \sqrt{19}
|x|  ~  x
x  ~  -x
5  ~  nan
5  ~  \infty
5  ~  None
5  ~  
5  ~  ?
5  ~  5 \text{ or } 6
5  ~  5 or 6
5  ~  between 4 and 6
12  ~  12,000
1,000  ~  1
12  ~  1 2
9^{9^{9}}  ~  9^{9^{8}}
0  ~  9^{9^{9}}
0  ~  1/9^{9^{9}}
0  ~  10^{-400}
\begin{pmatrix} 1 \\ 2 \end{pmatrix}  ~  \begin{pmatrix} 1 & 2 \end{pmatrix}
\begin{pmatrix} 1 \\ 2 \end{pmatrix}  ~  \begin{pmatrix} 12 \end{pmatrix}
\begin{pmatrix} 1 \\ 2 \end{pmatrix}  ~  (2, 1)
\text{(C)}  ~  Circle
\text{(C)}  ~  Option D
C  ~  C. 12, D. 13
C  ~  \text{(D)}
1+i,1-i  ~  1+i, 1+2i
\sqrt{21/5}  ~  √21/5
(3,4)  ~  (3)/(4)
\frac{3}{4}  ~  \mathbf{\frac{3}{5}}
-\frac{1}{2}  ~  -1\frac{1}{2}
8  ~  2**3
(1,-2)  ~  (x, y) = (-2, 1)
5  ~  \approx 5.1
3  ~  3/x
3  ~  3rd - 1
\text{(C)}  ~  (A), (B), (C)
12  ~  at minimum 12
5  ~  It is not $5$
5  ~  less than $5$
\frac{8}{21}  ~  \frac{8}{2}1
0  ~  zero or one
6\sqrt{2}\text{ cm}  ~  6\sqrt2 \text{ m}
1234  ~  1.234
1.234567  ~  1.234.567
5  ~  5 lakhs
5  ~  5 crores
5  ~  5 bn
5  ~  The temperature is above $5
5 p.m.  ~  5 a.m.
5 p.m.  ~  5:00 a.m.
5  ~  5:00:30
2^{2005}+1  ~  2^{2005}-1
2^{2005}  ~  2^{2006}
7^{2010}  ~  49^{1006}
"""
_SAME_SIGNS = [
    ("[2,\\infty)", "x \u2265 2"),
    ("5", "\u20ac5"),
    ("5", "\u00a35"),
    ("\\frac12", "\u00bd"),
    ("\\frac{3}{4}", "\u00be"),
    ("\\frac{11}{2}", "5\u00bd"),
    ("5", "5\u3002"),
    ("5", "\uff15"),
    ("-5", "\u22125"),
    ("-5", "\u20135"),
    ("x^2", "x\u00b2"),
    ("x^{10}", "x\u00b9\u2070"),
    ("204_5", "204\u2085"),
    ("\\alpha+1", "\u03b1+1"),
    ("5", "5\u200b"),
    ("10\\pi", "10\u03c0"),
    ("2\\sqrt{3}", "2\u221a3"),
    ("\\sqrt[3]{4}", "\u221b4"),
    ("\\pi", "\u03c0"),
    ("30^\\circ", "30\u00b0"),
    ("5", "\u0665"),
    ("18", "\U0001d7d9\U0001d7e0"),
    ("\\mathbb{R}", "\u211d"),
    ("p \\land q", "p \u2227 q"),
    ("\\neg p", "\u00acp"),
    ("12", "12 \u2713"),
    ("12", "1\ufe0f\u20e32\ufe0f\u20e3"),
    ("x=5, y=6", "x = 5\n\ny = 6"),
    ("\\frac{1}{2}", "```latex\n\\frac{1}{2}\n```"),
]
_DIFFERENT_SIGNS = [
    ("16", "\u226516"),
    ("16", "16\u2087"),
    ("\\frac12", "\u2153"),
    ("\\frac{11}{2}", "\u00bd5"),
    ("\\$5", "\u20ac5"),
    ("5", "\u0666"),
    ("4", "2\u00b2"),
    ("22", "2\u00b2"),
    ("4500", "4\n500"),
]


def _table(text: str) -> list[tuple[str, str]]:
    pairs = [line.split("  ~ ") for line in text.strip("\n").splitlines()]
    return [(truth.strip(), answer.strip()) for truth, answer in pairs]


SAME = [*_table(_SAME), *_SAME_SIGNS]
DIFFERENT = [*_table(_DIFFERENT), *_DIFFERENT_SIGNS]
